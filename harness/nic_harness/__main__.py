"""`python -m nic_harness`: the harness command, where it is not in PATH."""

import sys

from nic_harness.cli.app import main

sys.exit(main())
