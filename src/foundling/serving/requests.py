"""Request bodies. Every field is honoured; a field that is not here is refused by name.

Values that ask for nothing special (`store: false`, `service_tier: "auto"`) are accepted because clients send them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

MAX_STOPS = 4
MAX_CHOICES = 128
MAX_ALTERNATIVES = 20


def _encodable(text: str) -> str:
    """Refuse lone surrogates: JSON can spell them, UTF-8 and so a tokenizer cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("not valid Unicode: it holds half of a surrogate pair") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]


def _stops(value: Any) -> Any:
    stops = [value] if isinstance(value, str) else value
    if stops is None:
        return []
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise ValueError("expected a non-empty string, or a list of them")
    if len(stops) > MAX_STOPS:
        raise ValueError(f"at most {MAX_STOPS} stop sequences, got {len(stops)}")
    return [_encodable(stop) for stop in stops]


def _content(value: Any) -> Any:
    """A message's content: a string, or OpenAI's list of text parts, joined."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ValueError("expected a string or a list of text parts")
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError('only parts of the form {"type": "text", "text": "..."} are supported')
    return "".join(part["text"] for part in value)


def _biases(value: Any) -> Any:
    """JSON's keys are strings: {"50256": -100} becomes {50256: -100}."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(str(key).isdecimal() for key in value):
        raise ValueError("expected an object of token ids and biases")
    if not all(type(bias) in (int, float) and -100 <= bias <= 100 for bias in value.values()):
        raise ValueError("biases lie between -100 and 100")
    return {int(key): float(bias) for key, bias in value.items()}


def _prompts(value: Any) -> list[Any]:
    """A completion's prompts, always as a list of strings or of token lists."""
    if isinstance(value, str):
        return [_encodable(value)]
    if not isinstance(value, list) or not value:
        raise ValueError("expected a string, a list of strings, a list of token ids, or a list of such lists")
    if all(isinstance(item, str) for item in value):
        return [_encodable(item) for item in value]
    if all(type(item) is int for item in value):
        return [value]
    if all(isinstance(item, list) and item and all(type(token) is int for token in item) for item in value):
        return value
    raise ValueError("expected a string, a list of strings, a list of token ids, or a list of such lists")


_STRING = {"type": "string", "minLength": 1}
_TOKENS = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
_STOPS_SCHEMA = {"anyOf": [_STRING, {"type": "array", "items": _STRING, "maxItems": MAX_STOPS}, {"type": "null"}]}
_PROMPTS_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        _TOKENS,
        {"type": "array", "items": _TOKENS, "minItems": 1},
    ]
}
_BIAS = {"type": "number", "minimum": -100, "maximum": 100}
_BIASES_SCHEMA = {
    "anyOf": [
        {"type": "object", "propertyNames": {"pattern": "^[0-9]+$"}, "additionalProperties": _BIAS},
        {"type": "null"},
    ]
}
_TEXT_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
_CONTENT_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": _TEXT_PART}, {"type": "null"}]}
Stops = Annotated[list[Text], BeforeValidator(_stops), WithJsonSchema(_STOPS_SCHEMA)]
Prompts = Annotated[list[Any], BeforeValidator(_prompts), WithJsonSchema(_PROMPTS_SCHEMA)]
Biases = Annotated[dict[int, float], BeforeValidator(_biases), WithJsonSchema(_BIASES_SCHEMA)]
Content = Annotated[Text | None, BeforeValidator(_content), WithJsonSchema(_CONTENT_SCHEMA)]


class Body(BaseModel):
    """Base of all bodies: no unknown fields, no silent conversions ("3" is not 3)."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Body):
    """What a stream carries beside its text."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class Sampling(Body):
    """Fields that completions and chat completions share."""

    model: Text
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stop: Stops = Field(default_factory=list)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    typical_p: float | None = Field(None, gt=0, le=1)
    min_tokens: int | None = Field(None, ge=0)
    logit_bias: Biases = Field(default_factory=dict)
    ignore_eos: bool = False
    user: Text | None = None


class CompletionBody(Sampling):
    """POST /v1/completions."""

    prompt: Prompts
    max_tokens: int | None = Field(None, ge=0)  # 0 with echo: only the prompt's log-probabilities
    logprobs: int | None = Field(None, ge=0, le=MAX_ALTERNATIVES)
    echo: bool | None = None


class FunctionCall(Body):
    """What an assistant's earlier tool call said."""

    name: Text
    arguments: Text


class ToolCall(Body):
    """One earlier tool call of an assistant message."""

    id: Text
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Body):
    """One chat message."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = None
    name: Text | None = None
    tool_call_id: Text | None = None
    tool_calls: list[ToolCall] | None = None

    @model_validator(mode="after")
    def says_something(self) -> Message:
        """Only an assistant that called tools may have no content; a tool's answer says which call it is of."""
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError("a message needs content")
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"tool_calls belong to an assistant's message, not to a {self.role}'s")
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise ValueError("a tool's message, and only that, needs tool_call_id")
        return self

    def plain(self) -> dict[str, Any]:
        """The message as the chat template takes it ("developer" is today's name for "system")."""
        data = self.model_dump(exclude_none=True)
        data["role"] = "system" if self.role == "developer" else self.role
        return {"content": "", **data}


class JsonSchemaFormat(Body):
    """The schema of a structured answer. Answers are held to it whether or not it says strict."""

    name: Text
    body: dict[str, Any] = Field(alias="schema")
    description: Text | None = None
    strict: bool | None = None


class ResponseFormat(Body):
    """What the answer must look like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class Function(Body):
    """A function that an answer may call; arguments are held to `parameters` whether or not it says strict."""

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    """A tool; only functions are there."""

    type: Literal["function"]
    function: Function


class FunctionName(Body):
    """Which function."""

    name: Text


class NamedTool(Body):
    """A tool that must be called."""

    type: Literal["function"]
    function: FunctionName


def _tool_choice(value: Any) -> Any:
    """Told apart by hand, so that an error names the field and not the members of a union."""
    return NamedTool.model_validate(value) if isinstance(value, dict) else value


ToolChoice = Annotated[
    Literal["none", "auto", "required"] | NamedTool | None,
    BeforeValidator(_tool_choice),
    WithJsonSchema({"anyOf": [{"enum": ["none", "auto", "required", None]}, {"type": "object"}]}),
]


class ChatBody(Sampling):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_ALTERNATIVES)
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    modalities: list[Literal["text"]] | None = None


class EmbeddingBody(Body):
    """POST /v1/embeddings."""

    model: Text
    input: Prompts
    encoding_format: Literal["float", "base64"] | None = None
    user: Text | None = None


class TokenizeBody(Body):
    """POST /tokenize: text, or messages through the chat template."""

    model: Text | None = None
    prompt: Text | None = None
    messages: list[Message] | None = None
    add_generation_prompt: bool = True


class DetokenizeBody(Body):
    """POST /detokenize."""

    model: Text | None = None
    tokens: list[int]


class VoteBody(Body):
    """POST /playground/votes: of two answers to the same messages, the better one."""

    prompt: list[Message] = Field(min_length=1)
    chosen: Text
    rejected: Text
    chosen_model: Text
    rejected_model: Text
