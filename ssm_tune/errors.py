"""The one exception that users are meant to see."""


class UserError(Exception):
    """Something the user can mend: the message is one line that says what is wrong and what to do.

    Only ``cli.py`` turns it into exit status 2; everything else raises it.
    """
