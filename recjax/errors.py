"""The one exception that means "the input is wrong", as opposed to "recjax is wrong"."""


class InputError(ValueError):
    """Bad input or bad usage.

    The message is one line that names the file (and line), key or value at fault and says what
    was expected. The command line prints it without a traceback and exits with status 2.
    """
