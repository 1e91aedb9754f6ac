"""Text generation: sampling, stopping, streaming, and the chat calls of the original."""


class QWenVLGenerationMixin:
    """Mixed into :class:`QWenLMHeadModel`."""
