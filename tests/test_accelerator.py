"""The paths of an accelerator where there is none; registering a device changes a process, so they run in one of their own."""

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

CASES = Path(__file__).with_name("on_the_accelerator.py")


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"), reason="this torch cannot pretend"
)
def test_everything_public_runs_on_a_device_without_mixing(tmp_path):
    call = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--basetemp={tmp_path / 'cases'}",
        str(CASES),
    ]
    ran = subprocess.run(call, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
