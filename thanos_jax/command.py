"""What the commands have in common."""

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
    "Exit code of a run that SIGTERM or SIGINT stopped and that saved its state. A scheduler that "
    "starts only failed jobs again needs another than 0.",
    lower_bound=0,
    upper_bound=255,
)

# A path that begins in a home folder, which shells leave as it is after "--FLAG=".
_HOME = re.compile(r"(?<==)~[^/=]*/.*")


class Parser(argparse_flags.ArgumentParser):
    """Of a command that takes words besides flags; a misspelt choice suggests the nearest."""

    def error(self, message: str) -> NoReturn:
        """Ends the command with a message and exit code 2."""
        found = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        super().error(message + (nearest(found[1], re.findall(r"\w+", found[2])) if found else ""))

    def flags(self) -> list[str]:
        """Returns the names of its own flags."""
        return ["help", *re.findall(r"--(\w+)", self.format_usage())]


def start(main: Callable[[Any], int | None], parser: Parser | None = None) -> None:
    """Parses the flags and calls main(argv); a UserError becomes its message and exit code 1.

    A ~ at the beginning of a flag's value is the home folder.

    A run that was asked to stop, and did, ends with exit code 0 or that of --stopped_exit_code.

    Args:
      main: of the command; what it returns is the exit code.
      parser: of a command that takes words besides flags; main gets what it parses.
    """
    with while_read():
        _start(main, parser)


@contextlib.contextmanager
def while_read() -> Iterator[None]:
    """Ends the program without a word, with exit code 1, once nobody reads what it prints.

    As where `head` has read enough. A BrokenPipeError of anything but stdout stays an error.
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
        # What is still to be written, at the end of the program, goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit((ended and ended.code) or 1) from None
    if ended:
        raise ended


def _unread() -> bool:
    """Whether the reader of stdout has gone."""
    # Another flush would not tell: a write that failed may leave nothing to be flushed.
    watched = select.poll()
    watched.register(sys.stdout.fileno(), 0)
    return bool(watched.poll(0))


def _start(main: Callable[[Any], int | None], parser: Parser | None) -> None:
    keep_compiled_programs()

    def checked(argv: Any) -> int | None:
        if parser is None and len(argv) > 1:
            raise app.UsageError(f"expected only flags, got {argv[1:]}")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # Orbax tells every file it touches
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
    """Raises ConfigError for a flag that the command has not, with the nearest that it has."""
    own = set(parser.flags() if parser else ["help"])
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if not module.startswith("absl"):  # whose flags are for those who look for them
            own |= {flag.name for flag in defined}
    before = list(itertools.takewhile("--".__ne__, words))
    known = {*flags.FLAGS, "flagfile", "undefok", *own, *_may_be_unknown(before)}
    for word in before:
        name = word[2:].partition("=")[0]
        if not word.startswith("--") or name.startswith(("config.", "noconfig.")):
            continue  # a key of a config is looked at by itself
        if name in known or name.removeprefix("no") in known:
            continue
        if parser and any(flag.startswith(name) for flag in own):
            continue  # argparse takes abbreviations
        raise ConfigError(f"--{name}: no such flag{nearest(name, own)}")


def _may_be_unknown(words: Sequence[str]) -> Iterator[str]:
    """Yields the names that --undefok=NAME,NAME says to leave out where they are unknown."""
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        flag, equals, value = word.partition("=")
        if flag in ("-undefok", "--undefok"):
            yield from map(str.strip, (value if equals else following).split(","))


def _check_config(argv: Sequence[str]) -> None:
    """Raises ConfigError for a config file that is not there, or a key that the schema has not."""
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
            from thanos_jax.config import FIELDS  # of those commands alone that have a config

            key = found[1].partition("[")[0]  # widths[0] is a number in widths
            sections = {other[: len(key)] for other in FIELDS if other.startswith(f"{key}.")}
            if key not in FIELDS and not sections:
                raise ConfigError(f"config.{key}: no such key{nearest(key, FIELDS)}")


def _of_config_file(error: flags.Error) -> str:
    """Returns the message of an error of a flag; of one that a config file raised, its own words.

    ml_collections puts the traceback into the message; absl then makes an error of the flag of it.
    """
    cause = error.__context__
    if not isinstance(cause, UserError):
        return str(error)
    return str(cause).rstrip().rpartition(f"{type(cause).__qualname__}: ")[2]


def _misspelt(error: AttributeError | KeyError) -> Exception:
    """A ConfigError for a key that a config file sets and that does not exist; or the error."""
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

    The other processes then miss it and end too. An orderly end would wait for them, while they
    wait for this process.
    """
    jax = sys.modules.get("jax")
    if jax and jax.distributed.is_initialized() and jax.process_count() > 1:
        print(
            f"{message}\nprocess {jax.process_index()} of {jax.process_count()} ends, after an "
            "error of its own or because another process has ended; see what that one wrote. The "
            "same commands go on from the last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        with contextlib.suppress(OSError):  # the others must not wait because nobody reads
            sys.stdout.flush()
        os._exit(1)


def keep_compiled_programs() -> None:
    """Lets jax find what earlier runs compiled on this machine; of no effect once jax is imported.

    In ~/.cache/thanos_jax, or where XDG_CACHE_HOME says. JAX_COMPILATION_CACHE_DIR names another
    folder; JAX_ENABLE_COMPILATION_CACHE=false turns it off.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(os.path.join("~", ".cache"))
    # By machine: a home may be shared, and programs for one kind of CPU may not run on another.
    folder = os.path.join(home, "thanos_jax", platform.node() or "machine")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
