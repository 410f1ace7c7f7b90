"""What went wrong with an image job, for the one who asked."""

from typing import Any

#: The code of an image that came out with values that are no numbers.
NAN = "nan_image"


class ImageProblem(Exception):
    """Why a job is refused or failed: ``status`` is HTTP's, ``code`` for programs, ``param`` the field at fault.

    ``advice`` says what to change. ``retry`` is whether the same job may succeed when it is asked again.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        param: str | None = None,
        status: int = 400,
        advice: str | None = None,
        retry: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.status = status
        self.advice = advice
        self.retry = retry

    def body(self) -> dict[str, Any]:
        """The answer's body, for a job that was refused before anything started."""
        return {"error": {"message": self.message, "code": self.code, "param": self.param, "advice": self.advice}}

    def event(self) -> dict[str, Any]:
        """The stream's event, for a job that had started."""
        return {
            "type": "error",
            "status": self.status,
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "advice": self.advice,
            "retry": self.retry,
        }
