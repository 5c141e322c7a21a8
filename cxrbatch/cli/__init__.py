"""The command line. Exceptions become exit codes here and nowhere else; start at `main`."""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import sys
import traceback

import click

from cxrbatch.cli import (
    building,
    handing_on,
    measuring,
    operating,
    pretraining,
    pulling,
    running,
    sending,
    serving,
    spreading,
    traffic,
    training,
)
from cxrbatch.cli.group import commands
from cxrbatch.cli.terminal import PlainLines, say
from cxrbatch.errors import ExitCode, RunError
from cxrbatch.system.standard_streams import last_words, take_over
from cxrbatch.system.stopping import Stopped, stop_cleanly_on

__all__ = [
    "building",
    "commands",
    "handing_on",
    "main",
    "measuring",
    "operating",
    "pretraining",
    "pulling",
    "run_command_line",
    "running",
    "sending",
    "serving",
    "spreading",
    "traffic",
    "training",
]

_NOT_WRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT})

TRAINING_MODULES = frozenset(
    {"torch", "torchvision", "lightning", "torchmetrics", "sklearn", "matplotlib", "onnx", "onnxscript", "safetensors"}
)


def main() -> None:
    """Run the command line and leave with its exit code."""
    take_over()
    stop_cleanly_on(signal.SIGINT, signal.SIGTERM)
    code = last_words(run_command_line(sys.argv[1:]))
    time_limit = sys.modules.get("cxrbatch.engine.time_limit")
    if time_limit is not None and time_limit.an_engine_hangs():
        # Python would wait for the driver that hangs, to take its objects apart.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run_command_line(arguments: list[str]) -> int:
    """Run one command; return its exit code, having told on stderr what went wrong."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PlainLines())
    try:
        result = commands.main(arguments, prog_name="cxrbatch", standalone_mode=False)
    except click.ClickException as error:
        _show_usage(error)
        return error.exit_code
    except RunError as error:
        _complain(str(error))
        return error.exit_code
    except Stopped as stopped:
        _complain(f"stopped; {stopped.advice}")
        return stopped.exit_code
    except Exception as error:  # noqa: BLE001  # the last resort: an exit code and a sentence, not a traceback
        return _tell(error)
    return int(result or ExitCode.DONE)


def _tell(error: Exception) -> int:
    """Tell what nobody in cxrbatch raised on purpose."""
    if os.environ.get("CXRBATCH_DEBUG"):
        traceback.print_exception(error)
    if isinstance(error, ModuleNotFoundError):
        return _missing_module(error)
    if isinstance(error, OSError) and error.filename is not None:
        return _refused_by_system(error)
    return _unexpected(error)


def _complain(message: str) -> None:
    """Say what went wrong. A message may name a file that a stranger named."""
    say(f"cxrbatch: {message}", err=True)


def _show_usage(error: click.ClickException) -> None:
    """Show click's message, which quotes what was typed, or what a shell's * stood for."""
    shown = io.StringIO()
    error.show(shown)
    say(shown.getvalue().removesuffix("\n"), err=True)


def _missing_module(error: ModuleNotFoundError) -> int:
    """Tell a command that needs the workshop from a bug: running needs none of these packages."""
    module = (error.name or "").partition(".")[0]
    if module not in TRAINING_MODULES:
        return _unexpected(error)
    _complain(f"this command needs {module}: pip install 'cxrbatch[train]'")
    return ExitCode.CONFIGURATION


def _refused_by_system(error: OSError) -> int:
    """Tell what the machine refused: a folder that cannot be made, a full disk, is no bug."""
    _complain(f"{error.filename}: {error.strerror}. Check the path, permissions and free space.")
    return ExitCode.OUTPUT_NOT_WRITABLE if error.errno in _NOT_WRITABLE else ExitCode.UNEXPECTED


def _unexpected(error: Exception) -> int:
    _complain(
        f"unexpected {type(error).__name__}: {error}\n"
        "This is a bug. Set CXRBATCH_DEBUG=1 to see where it happened, and please report it."
    )
    return ExitCode.UNEXPECTED
