"""What all blocks of the config share: a parent that refuses unknown keys, and bounded types."""

from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

NULL = "null"  # Snakemake passes null in --config as this text

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Normal = tuple[float, Positive]
Seed = Annotated[int, Field(ge=0)]
Label = Annotated[str, Field(pattern="^[A-Za-z0-9]+$")]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
RunName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]


def _without_null(values: Any) -> Any:  # noqa: ANN401  # any value of a config
    return {k: v for k, v in values.items() if v not in (None, NULL)} if isinstance(values, dict) else values


WithoutNull = BeforeValidator(_without_null)  # null removes an entry of a dict, which an overlay could only replace


class Section(BaseModel):
    """A block of the config: unknown keys are refused, values cannot be changed once they are read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def read_null(cls, values: Any) -> Any:  # noqa: ANN401  # any value of a config
        """The text null as None, for keys that may be null: `--config` has no other way to say it."""
        if not isinstance(values, dict):
            return values
        fields = cls.model_fields
        optional = {name for name in values if name in fields and type(None) in get_args(fields[name].annotation)}
        return {name: None if value == NULL and name in optional else value for name, value in values.items()}


def key(description: str, default: Any = ..., *, path: bool = False, **bounds: Any) -> Any:  # noqa: ANN401
    """A config key with its description, and its default if `config.yaml` does not hold it.

    Arguments:
        path: The value is a path: jobs get it resolved from the root of the repository.
    """
    return Field(default, description=description, json_schema_extra={"path": True} if path else None, **bounds)
