# native/binding/views.c
from typing import Any

def views(owner: Any, frames: Any) -> list[memoryview | None]: ...
