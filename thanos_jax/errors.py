"""What a user can mend: the commands show these errors without a traceback."""


class UserError(Exception):
    """Base of the errors whose message says what was got, what is expected, and what to do."""


class MissingDependencyError(UserError, ImportError):
    """An optional dependency that this run needs is not installed."""


class ConfigError(UserError, ValueError):
    """A config that cannot be run; the message names the key, what was got and what is expected."""
