"""What all commands share: parsing of flags, handling of errors and of signals."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import platform
import re
import select
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging
from absl.flags import argparse_flags

from thanos_jax import config_files
from thanos_jax.errors import ConfigError, UserError, nearest
from thanos_jax.interruption import Interrupted

_STOPPED = flags.DEFINE_integer(
    "stopped_exit_code",
    0,
    "Exit code of a run that saved its state after SIGTERM or SIGINT. A scheduler that restarts "
    "failed jobs only needs a code other than 0.",
    lower_bound=0,
    upper_bound=255,
)

# A path that begins with ~, which shells do not expand after "--FLAG=".
_HOME = re.compile(r"(?<==)~[^/=]*/.*")


class Parser(argparse_flags.ArgumentParser):
    """Parser of a command with positional arguments; suggests the nearest choice."""

    def error(self, message: str) -> NoReturn:
        """Ends the command with a message and exit code 2."""
        found = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        super().error(message + (nearest(found[1], re.findall(r"\w+", found[2])) if found else ""))

    def flags(self) -> list[str]:
        """Returns the names of the flags that this parser defines."""
        return ["help", *re.findall(r"--(\w+)", self.format_usage())]


def start(main: Callable[[Any], int | None], parser: Parser | None = None) -> None:
    """Parses the flags, calls main(argv) and ends the process with its exit code.

    A UserError is printed as its message, without a traceback, with exit code 1. A run that a
    signal stopped ends with the code of --stopped_exit_code. A ~ at the beginning of a flag's value
    is expanded to the home folder.

    Args:
      main: the command's function; it returns the exit code.
      parser: parser of a command with positional arguments; main then gets the parsed namespace.
    """
    with while_read():
        _start(main, parser)


@contextlib.contextmanager
def while_read() -> Iterator[None]:
    """Ends the program silently, with exit code 1, once the reader of its stdout is gone.

    This happens with `| head`, for instance. A BrokenPipeError of another file stays an error.
    """
    ended: SystemExit | None = None
    try:
        try:
            yield
        except SystemExit as raised:
            ended = raised
        sys.stdout.flush()
    except BrokenPipeError:
        if not _unread():
            raise
        # What is still buffered at the end of the program is discarded.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit((ended and ended.code) or 1) from None
    if ended:
        raise ended


def _unread() -> bool:
    """Returns whether the reader of stdout is gone."""
    # Another flush would not show it: after a failed write the buffer may be empty.
    watched = select.poll()
    watched.register(sys.stdout.fileno(), 0)
    return bool(watched.poll(0))


def _start(main: Callable[[Any], int | None], parser: Parser | None) -> None:
    keep_compiled_programs()

    def checked(argv: Any) -> int | None:
        if parser is None and len(argv) > 1:
            raise app.UsageError(f"expected only flags, got {argv[1:]}")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # Orbax logs every file it touches
        return main(argv)

    def parse(argv: list[str]) -> Any:
        _check_flags(argv[1:], parser)
        if parser:
            return parser.parse_args(argv[1:])
        _check_config(argv)
        try:
            return flags.FLAGS(argv)
        except (AttributeError, KeyError) as error:
            raise _misspelt(error) from error
        except flags.Error as error:
            raise ConfigError(_of_config_file(error)) from error

    # config_flags reads --config.KEY=VALUE from sys.argv itself.
    sys.argv = [_HOME.sub(lambda found: os.path.expanduser(found[0]), word) for word in sys.argv]
    try:
        if parser is None:
            sys.argv = [sys.argv[0], *config_files.expand(sys.argv[1:])]
        app.run(checked, flags_parser=parse)
    except Interrupted as stopped:
        print(stopped, flush=True)
        raise SystemExit(_STOPPED.value) from None
    except UserError as error:
        _leave_others(f"error: {error}")
        raise SystemExit(f"error: {error}") from None
    except Exception:
        _leave_others(traceback.format_exc())
        raise


def _check_flags(words: Sequence[str], parser: Parser | None) -> None:
    """Raises ConfigError for an unknown flag; the message suggests the nearest known one."""
    own = set(parser.flags() if parser else ["help"])
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if not module.startswith("absl"):  # absl's own flags are not suggested
            own |= {flag.name for flag in defined}
    before = list(itertools.takewhile("--".__ne__, words))
    known = {*flags.FLAGS, "flagfile", "undefok", *own, *_may_be_unknown(before)}
    for word in before:
        name = word[2:].partition("=")[0]
        if not word.startswith("--") or name.startswith(("config.", "noconfig.")):
            continue  # keys of a config are checked by `_check_config`
        if name in known or name.removeprefix("no") in known:
            continue
        if parser and any(flag.startswith(name) for flag in own):
            continue  # argparse takes abbreviations
        raise ConfigError(f"--{name}: no such flag{nearest(name, own)}")


def _may_be_unknown(words: Sequence[str]) -> Iterator[str]:
    """Yields the names in --undefok=NAME,NAME: flags that are ignored if they are unknown."""
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        flag, equals, value = word.partition("=")
        if flag in ("-undefok", "--undefok"):
            yield from map(str.strip, (value if equals else following).split(","))


def _check_config(argv: Sequence[str]) -> None:
    """Raises ConfigError for a missing config file or a key that the schema does not have."""
    for word in argv:
        if word.startswith("--config="):
            path = pathlib.Path(word.partition("=")[2].partition(":")[0])
            if not path.is_file():
                there = [str(other) for other in path.parent.glob("*.py")]
                # Outside of a clone there is no configs/, but the package's own have names.
                like = nearest(str(path), there) or nearest(path.stem, config_files.known())
                raise ConfigError(f"--config: expected a file, got {str(path)!r}{like}")
        found = re.match(r"--?(?:no)?config\.([^=]+)", word)
        if found:
            from thanos_jax.config import FIELDS  # only for commands with a config

            key = found[1].partition("[")[0]  # widths[0] is a number in widths
            sections = {other[: len(key)] for other in FIELDS if other.startswith(f"{key}.")}
            if key not in FIELDS and not sections:
                raise ConfigError(f"config.{key}: no such key{nearest(key, FIELDS)}")


def _of_config_file(error: flags.Error) -> str:
    """Returns the message of a flag's error, or of the UserError that a config file raised.

    ml_collections puts the traceback of a config file into its message, and absl turns this into
    an error of the flag.
    """
    cause = error.__context__
    if not isinstance(cause, UserError):
        return str(error)
    return str(cause).rstrip().rpartition(f"{type(cause).__qualname__}: ")[2]


def _misspelt(error: AttributeError | KeyError) -> Exception:
    """Returns a ConfigError if a config file sets an unknown key, else the error itself."""
    inner: Any = error
    while isinstance(inner, BaseException) and inner.args:
        inner = inner.args[0]
    words = " ".join(str(inner).split())
    frames = traceback.extract_tb(error.__traceback__)
    places = [frame for frame in frames if "get_config" in frame.name]
    if "Did you mean" not in words or not places:
        return error
    place = places[-1]
    return ConfigError(f"{place.filename}, line {place.lineno}: no such key: {words}")


def _leave_others(message: str) -> None:
    """Ends this process at once, with exit code 1, if it is one of several.

    The other processes notice and end too. An orderly exit would deadlock: this process would wait
    for the others, and they for it.
    """
    jax = sys.modules.get("jax")
    if jax and jax.distributed.is_initialized() and jax.process_count() > 1:
        print(
            f"{message}\nprocess {jax.process_index()} of {jax.process_count()} ends, after an "
            "error of its own or because another process has ended; see the output of that one. "
            "The same commands continue from the last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        with contextlib.suppress(OSError):  # a closed stdout must not keep the others waiting
            sys.stdout.flush()
        os._exit(1)


def keep_compiled_programs() -> None:
    """Turns on jax's persistent compilation cache; has no effect once jax is imported.

    The cache is in thanos_jax/ of XDG_CACHE_HOME or ~/.cache. JAX_COMPILATION_CACHE_DIR names
    another folder; JAX_ENABLE_COMPILATION_CACHE=false turns the cache off.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(os.path.join("~", ".cache"))
    # One folder per machine: a home may be shared by machines with different CPUs.
    folder = os.path.join(home, "thanos_jax", platform.node() or "machine")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
