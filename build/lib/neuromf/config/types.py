"""What all sections share: their parent, which refuses unknown keys, and types with bounds."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Law = tuple[float, Positive]
Seed = Annotated[int, Field(ge=0)]
Label = Annotated[str, Field(pattern="^[A-Za-z0-9]+$")]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
RunName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
