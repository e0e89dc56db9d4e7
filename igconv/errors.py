"""The one exception that means: the input was wrong, not the program."""


class InputError(ValueError):
    """Bad input at a boundary: image, folder, checkpoint, parameter.

    The message is one line that names the offending value and what is allowed. Commands print it
    without a traceback and exit with status 2.
    """


class Busy(InputError):
    """Another process holds what was asked for; waiting may help."""


def reason(error: object, limit: int | None = 200) -> str:
    """What an error says, in one line of at most ``limit`` characters (None: all of it)."""
    return " ".join(str(error).split())[:limit]


# What CUDA, its libraries and the allocators say when memory is short, beside PyTorch's own kind of error.
_OUT_OF_MEMORY = ("out of memory", "alloc_failed", "allocation_failed", "can't allocate memory",
                  "cannot allocate memory", "not enough memory", "failed to allocate")  # fmt: skip


def out_of_memory(error: BaseException | None) -> str:
    """What says that memory was too small, in an error or in those that led to it; empty if nothing does.

    A failed allocation has many shapes: PyTorch's OutOfMemoryError, a RuntimeError with the text of CUDA, cuBLAS, cuDNN
    or NCCL, Python's MemoryError, and while a graph is recorded one of these hidden behind the end of the recording.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        text = reason(error)
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return text or type(error).__name__
        if isinstance(error, RuntimeError) and any(words in reason(error, None).lower() for words in _OUT_OF_MEMORY):
            return text
        error = error.__cause__ or error.__context__
    return ""


def choose(value: str, allowed, what: str) -> str:
    """Return ``value`` if it is one of ``allowed``, otherwise raise an `InputError` that lists them."""
    if value not in allowed:
        raise InputError(f"unknown {what} {value!r}; choose from {', '.join(map(str, sorted(allowed)))}")
    return value


def positive_integers(values, what: str) -> tuple[int, ...]:
    """Return ``values`` as a tuple of distinct integers >= 1, at least one, otherwise raise `InputError`."""
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise InputError(f"{what} must be a list of integers >= 1, got {values!r}")
    numbers = tuple(positive_integer(value, f"each of {what}") for value in values)
    if not numbers or len(set(numbers)) != len(numbers):
        raise InputError(f"{what} must be distinct and at least one, got {numbers}")
    return numbers


def positive_integer(value, what: str) -> int:
    """Return ``value`` as an int if it is an integer >= 1 (``True`` is not), otherwise raise `InputError`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < 1:
        raise InputError(f"{what} must be an integer >= 1, got {value!r}")
    return value.__index__()
