"""`python -m xlm_export`."""

import sys

from xlm_export.cli.main import main

sys.exit(main())
