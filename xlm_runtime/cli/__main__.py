"""`python -m xlm_runtime.cli`."""

import sys

from xlm_runtime.cli.main import main

sys.exit(main())
