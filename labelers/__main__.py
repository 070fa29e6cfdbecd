"""`python -m labelers`."""

import sys

from labelers.cli import main

sys.exit(main())
