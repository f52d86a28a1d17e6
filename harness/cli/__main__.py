"""`python -m harness.cli`, where the command itself is not in PATH."""

import sys

from harness.cli.app import main

sys.exit(main())
