"""A form, such as an audio upload: its `model` is read and may be changed in place, no more."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from router.errors import BadRequest

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS = 1000  # each costs some 10 us, in which nobody else is served


@dataclass(slots=True)
class MultipartBody:
    """`_span` is where the model's name stands in `raw`."""

    raw: bytes
    model: str
    stream: bool
    _span: tuple[int, int]

    def rewritten(self, model: str, *, ask_usage: bool) -> bytes:
        if model == self.model:
            return self.raw
        start, end = self._span
        return self.raw[:start] + model.encode() + self.raw[end:]


def parse_multipart(raw: bytes, content_type: bytes) -> MultipartBody:
    """Find the form's `model` and `stream`. Raises BadRequest."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise BadRequest("the multipart body's content-type names no boundary")
    parts = _Parts(raw)
    try:
        parser = MultipartParser(boundary, parts.callbacks())
        parser.write(raw)
        parser.finalize()
    except FormParserError as error:
        raise BadRequest(f"the body is not a valid form: {error}", code="invalid_form") from error
    if b"model" not in parts.spans:
        raise BadRequest(
            "the form has no field 'model'", code="missing_required_parameter", param="model"
        )
    start, end = parts.spans[b"model"]
    try:
        model = raw[start:end].decode()
    except UnicodeDecodeError as error:
        raise BadRequest("'model' is not UTF-8", param="model") from error
    stream = raw[slice(*parts.spans.get(b"stream", (0, 0)))].lower() == b"true"
    return MultipartBody(raw, model, stream, (start, end))


@dataclass(slots=True)
class _Parts:
    """The span of each part's content by the part's name; contents are not copied."""

    raw: bytes
    spans: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    _count: int = 0
    _header: bytes = b""
    _value: bytes = b""
    _name: bytes = b""

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_field,
            "on_header_value": self._on_value,
            "on_header_end": self._end_header,
            "on_part_data": self._on_data,
        }

    def _begin(self) -> None:
        self._count += 1
        self._name = b""
        if self._count > MAX_PARTS:
            raise BadRequest(f"the form has more than {MAX_PARTS} parts")

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._name = parse_options_header(self._value)[1].get(b"name", b"")
        self._header = self._value = b""

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        """Names and flags come in one piece of `raw`; other pieces are of files."""
        if data is not self.raw or not self._name:
            return
        if self._name == b"model" and b"model" in self.spans:  # which one a server takes, differs
            raise BadRequest("the form has more than one field 'model'", param="model")
        self.spans.setdefault(self._name, (start, end))
