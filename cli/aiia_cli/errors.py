"""What a user did not expect and can do something about."""


class UserError(Exception):
    """Its message is shown as it is, without a stack trace, and the command ends with exit code 1."""
