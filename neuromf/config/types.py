"""What all blocks of the config share: a parent that refuses unknown keys, and bounded types."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Normal = tuple[float, Positive]
Seed = Annotated[int, Field(ge=0)]
Label = Annotated[str, Field(pattern="^[A-Za-z0-9]+$")]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
RunName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]


class Section(BaseModel):
    """A block of the config: unknown keys are refused, values cannot be changed once they are read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def key(description: str, default: Any = ..., *, path: bool = False, **bounds: Any) -> Any:  # noqa: ANN401
    """A config key with its description, and its default if `config.yaml` does not hold it.

    Arguments:
        path: The value is a path: jobs get it resolved from the root of the repository.
    """
    return Field(default, description=description, json_schema_extra={"path": True} if path else None, **bounds)
