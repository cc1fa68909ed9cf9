"""`python -m xlm_runtime.cli`."""

import sys

from xlm_runtime.__main__ import main

sys.exit(main())
