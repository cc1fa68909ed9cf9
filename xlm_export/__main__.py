"""`python -m xlm_export`."""

import sys

from xlm_export.cli import main

sys.exit(main())
