"""What all parts of a Model document have in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

# A Kubernetes object's name, because the document is one in a cluster.
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=63)]
Repository = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$", description="A repository on the Hugging Face hub")]
Revision = Annotated[str, Field(pattern=r"^[\w./-]+$", description="Branch, tag or commit at the hub")]
Folder = Annotated[
    str,
    Field(pattern=r"^\.?/", description="A folder of the machine or volume; with ./ one beside the document's file"),
]


class Part(BaseModel):
    """Names are camel case in the document; a field that is not known is a mistake."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, frozen=True)
