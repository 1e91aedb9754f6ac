"""The network: the decoder with images written over its placeholder tokens, and the language-model head.

Parameter names are exactly the original's (``transformer.h.0.attn.c_attn.weight``, ``transformer.visual.proj`` …);
linear weights are in Paddle's ``[in, out]`` order.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn as nn
import paddle.nn.functional as F
from paddlenlp.generation import GenerationConfig
from paddlenlp.transformers.model_outputs import CausalLMOutputWithPast
from paddlenlp.transformers.model_utils import PretrainedModel

from ...checkpoint.shards import Partition
from ...errors import PromptError
from ...parallel.channel import CommandChannel
from ...parallel.group import SINGLE, TensorParallelGroup
from ...utils.paddle_internals import is_initialized
from .attention_metadata import CachedAttention, DenseAttention, PackedAttention, PackedSequence, attention_metadata
from .configuration import QWenVLConfig
from .image_placeholders import PlaceholderFormat
from .kv_cache import KVCache, cache_dtype, ntk_alpha
from .language import QWenBlock
from .layers import Linear, RMSNorm, VocabularyShares, activation_checkpoint
from .vision import CrossAttention, Resampler, VisionTransformer, sine_positions
from .vocabulary import IGNORE_INDEX
from .weights import ADAPTER_TARGETS, FREEZE_PRESETS, GPTQ_STAGES, WEIGHTS


class QWenModel(nn.Layer):
    """Embeddings, image encoder, decoder layers and final norm.

    ``enable_recompute`` trades time for memory in the decoder's training; ``visual`` and its ``transformer`` have
    switches of the same name for the resampler and the ViT.
    """

    def __init__(self, config: QWenVLConfig) -> None:
        """Create the layers that ``config`` describes."""
        super().__init__()
        self.config = config
        self.enable_recompute = config.recompute
        self.vocabulary = VocabularyShares()
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.drop = nn.Dropout(config.emb_dropout_prob)
        self.h = nn.LayerList([QWenBlock(config, layer) for layer in range(config.num_hidden_layers)])
        self.ln_f = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.visual = VisionTransformer(config.visual)

    def embed(
        self,
        input_ids: paddle.Tensor,
        images: paddle.Tensor | None = None,
        image_features: paddle.Tensor | None = None,
    ) -> paddle.Tensor:
        """Token embeddings ``[batch, length, hidden]`` with the images' features in their placeholders.

        Args:
            input_ids: int ``[batch, length]``; each image is ``<img>``, ``n_queries`` placeholder ids of any value,
                and ``</img>``.
            images: float ``[n, 3, side, side]``, in order of appearance over the rows.
            image_features: ``[n, n_queries, hidden]``, what ``visual(images)`` returned, instead of ``images``.

        Raises:
            PromptError: a ``<img>`` without its ``</img>``, a placeholder of the wrong length, or not as many images
                as placeholders, none at all included.
        """
        embeddings = self.vocabulary.embed(self.wte, input_ids)
        placeholder = PlaceholderFormat.of(self.config.visual)
        if images is not None:
            if image_features is not None:
                raise PromptError("images, image_features: give one of them, not both")
            image_features = self.visual(images)
        if image_features is None:
            empty = placeholder.count_complete(input_ids.numpy())
            if empty:
                raise PromptError(
                    f"images: missing for {empty} <img> placeholder(s) in input_ids; the model itself reads no paths, "
                    "generate and chat do"
                )
            return embeddings + self._blank_image_term() if self._needs_image_gradients() else embeddings
        indices = placeholder.indices(input_ids.numpy())
        if len(indices) != image_features.shape[0]:
            raise PromptError(
                f"images: got {image_features.shape[0]} for {len(indices)} <img> placeholder(s) in input_ids"
            )
        if not len(indices):
            return embeddings
        hidden = embeddings.shape[-1]
        flat = paddle.scatter(
            embeddings.reshape([-1, hidden]),
            paddle.to_tensor(indices.reshape(-1)),
            image_features.reshape([-1, hidden]).astype(embeddings.dtype),
        )
        return flat.reshape(embeddings.shape)

    def forward(
        self,
        inputs_embeds: paddle.Tensor,
        attention_mask: paddle.Tensor | None = None,
        position_ids: paddle.Tensor | None = None,
        past_key_values: KVCache | None = None,
        output_hidden_states: bool = False,
        sequences: Sequence[PackedSequence] | None = None,
    ) -> tuple[paddle.Tensor, list[paddle.Tensor] | None]:
        """Run the decoder: ``[batch, length, hidden]`` to the same shape, after the final norm.

        The second result holds the input of the first layer and every layer's output before the final norm, if asked
        for. ``sequences`` are packed sequences, in place of a mask and without a cache: they fill all rows, in
        order, and each sees itself only.

        Raises:
            PromptError: sequences together with a mask or a cache.
        """
        if sequences is not None and (attention_mask is not None or past_key_values is not None):
            beside = "attention_mask" if attention_mask is not None else "past_key_values"
            raise PromptError(f"sequences: got them beside {beside}, expected one of them")
        x, residual = self.drop(inputs_embeds), None
        metadata = self._attention_metadata(x, attention_mask, position_ids, past_key_values, sequences)
        hidden_states = [x] if output_hidden_states else None
        # Keys and values go into a cache as they are computed, once.
        recompute = self.enable_recompute and self.training and past_key_values is None
        for block in self.h:
            if recompute:
                x, residual = activation_checkpoint(block, block, x, residual, metadata)
            else:
                x, residual = block(x, residual, metadata, past_key_values)
            if hidden_states is not None:
                hidden_states.append(x + residual)
        if past_key_values is not None:
            past_key_values.advance(x.shape[1])
        return self.ln_f(x, residual)[0], hidden_states

    def _attention_metadata(
        self,
        x: paddle.Tensor,
        padding_mask: paddle.Tensor | None,
        position_ids: paddle.Tensor | None,
        cache: KVCache | None,
        sequences: Sequence[PackedSequence] | None,
    ) -> DenseAttention | PackedAttention | CachedAttention:
        batch, length, _ = x.shape
        if cache is None:
            # Neither scaling exists in training, as in the original.
            past, ntk_factor = 0, 1.0 if self.training else ntk_alpha(length, self.config)
        else:
            past, ntk_factor = cache.length, cache.ntk_alpha
            cache.reserve(past + length)
        return attention_metadata(
            self.config,
            batch,
            length,
            past,
            ntk_factor,
            scale_queries=not self.training,
            padding_mask=padding_mask,
            position_ids=position_ids,
            with_gradients=cache is None and paddle.is_grad_enabled(),
            dtype=x.dtype,
            sequences=sequences,
        )

    def _needs_image_gradients(self) -> bool:
        return self.training and any(not parameter.stop_gradient for parameter in self.visual.parameters())

    def _blank_image_term(self) -> paddle.Tensor:
        """Zero, but connected to every visual parameter: data-parallel workers without an image stay in step."""
        return self.visual(self.visual.blank_images()).mean() * 0


class QWenCausalLM(PretrainedModel):
    """The network with its language-model head: what computes logits, for the classes and functions above it.

    :class:`.modeling.QWenLMHeadModel` is the one to load, chat with and save.
    """

    config_class = QWenVLConfig
    base_model_prefix = "transformer"
    #: what quantization, adapters and fine-tuning ask of a model
    weight_table = WEIGHTS
    gptq_stages = GPTQ_STAGES
    adapter_targets = ADAPTER_TARGETS
    freeze_presets = FREEZE_PRESETS
    #: how the weights are divided among processes, and these
    partition: Partition | None = None
    group: TensorParallelGroup = SINGLE
    #: to the other processes, where this is the first and they follow
    channel: CommandChannel | None = None

    def __init__(self, config: QWenVLConfig) -> None:
        """Create the layers that ``config`` describes, with initial values."""
        super().__init__(config)
        # PaddleNLP gives one only to models that generate in its own way.
        self.generation_config = GenerationConfig(eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id)
        self.transformer = QWenModel(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias_attr=False)

    @property
    def visual(self) -> VisionTransformer:
        """The image encoder: ``model.visual(images)`` maps ``[n, 3, side, side]`` to ``[n, n_queries, hidden]``."""
        return self.transformer.visual

    @property
    def decoder_blocks(self) -> tuple[str, nn.LayerList]:
        """Name of the decoder's list of blocks in the model, and the list."""
        return "transformer.h", self.transformer.h

    @property
    def local_heads(self) -> int:
        """The attention heads of this process."""
        heads: int = self.transformer.h[0].attn.heads
        return heads

    @property
    def activation_dtype(self) -> str:
        """The dtype that the model computes in, also where its linear layers are quantized."""
        return str(self.transformer.ln_f.weight.dtype).rpartition(".")[2]

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of token embeddings ``[vocab, hidden]``."""
        return self.transformer.wte

    def get_output_embeddings(self) -> nn.Linear:
        """The language-model head, ``[hidden, vocab]``."""
        return self.lm_head

    def new_cache(self, batch_size: int, prompt_length: int, capacity: int | None = None) -> KVCache:
        """An empty cache for a prompt of ``prompt_length`` positions (with padding), with room for ``capacity``.

        Raises:
            ConfigurationError: ``kv_cache_dtype`` asks for another dtype than the activations' on a GPU.
        """
        capacity = max(capacity or prompt_length, prompt_length)
        dtype = cache_dtype(self.config, self.activation_dtype)
        return KVCache(self.config, batch_size, capacity, prompt_length, dtype, self.local_heads)

    def freeze_vit(self) -> None:
        """Freeze what the original's ``fix_vit`` freezes: everything visual except the resampler's own parameters.

        ``ln_post`` and ``proj`` stay frozen with the ViT, as in the original. The resampler's position table stays
        frozen as well: the original trains it by accident.
        """
        for name, parameter in self.visual.named_parameters():
            parameter.stop_gradient = not name.startswith("attn_pool.") or name == "attn_pool.pos_embed"

    def forward(
        self,
        input_ids: paddle.Tensor | None = None,
        images: paddle.Tensor | None = None,
        attention_mask: paddle.Tensor | None = None,
        labels: paddle.Tensor | None = None,
        position_ids: paddle.Tensor | None = None,
        past_key_values: KVCache | None = None,
        inputs_embeds: paddle.Tensor | None = None,
        image_features: paddle.Tensor | None = None,
        logits_to_keep: int = 0,
        use_cache: bool | None = None,
        output_hidden_states: bool = False,
        token_type_ids: paddle.Tensor | None = None,
    ) -> CausalLMOutputWithPast:
        """Logits, and the loss where labels are given.

        Args:
            input_ids: int ``[batch, length]``; or give ``inputs_embeds``.
            images: float32 ``[n, 3, side, side]`` for the image placeholders, in order of appearance over the rows.
            attention_mask: ``[batch, past + length]`` of ones and zeros, padding on the left when a cache is used; or
                bool ``[batch, length, past + length]`` (true: may be seen), always combined with the causal mask.
            labels: int ``[batch, length]``, not shifted; −100 is ignored. The loss is a float32 mean.
            position_ids: int ``[batch, length]``; by default positions are counted from the start, padding included.
            past_key_values: the cache to read and extend; one to many tokens may be fed with it. No gradient passes
                through it.
            inputs_embeds: ``[batch, length, hidden]``, from ``embed``, instead of ``input_ids``.
            image_features: ``[n, n_queries, hidden]`` instead of ``images``, for images that are encoded already.
            logits_to_keep: compute logits for so many last positions only; 0 means all.
            use_cache: start a cache where none was given; by default ``config.use_cache`` in evaluation, under
                ``paddle.no_grad`` and without labels.
            output_hidden_states: also return the input of the first layer and the output of each.
            token_type_ids: not used; the tokenizer returns them, as the original's does.

        Returns:
            ``logits`` ``[batch, kept, vocab]``, ``loss`` or ``None``, ``past_key_values``, ``hidden_states`` or
            ``None``.

        Raises:
            PromptError: arguments that exclude each other, or images that do not fit the placeholders.
        """
        if labels is not None and logits_to_keep:
            raise PromptError("logits_to_keep: a loss needs the logits of all positions; leave it at 0 with labels")
        if inputs_embeds is None and input_ids is not None:
            inputs_embeds = self.transformer.embed(input_ids, images, image_features)
        elif inputs_embeds is None or input_ids is not None:
            raise PromptError("input_ids, inputs_embeds: give exactly one of them")
        elif images is not None or image_features is not None:
            raise PromptError("images: with inputs_embeds the images must be in the embeddings already; use embed()")
        if use_cache is None:
            wanted = not self.training and labels is None and not paddle.is_grad_enabled()
            use_cache = self.config.use_cache and wanted
        if use_cache and past_key_values is None:
            past_key_values = self.new_cache(inputs_embeds.shape[0], inputs_embeds.shape[1])
        hidden, hidden_states = self.transformer(
            inputs_embeds, attention_mask, position_ids, past_key_values, output_hidden_states
        )
        kept = hidden[:, -logits_to_keep:] if logits_to_keep else hidden
        logits = self.transformer.vocabulary.logits(self.lm_head, kept)
        loss = None if labels is None else next_token_loss(logits, labels)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=past_key_values, hidden_states=hidden_states
        )

    def _init_weights(self, layer: nn.Layer) -> None:
        """Initial values for training from scratch; parameters that wait for a checkpoint are left alone."""
        own = layer.parameters(include_sublayers=False)
        if not own or not all(map(is_initialized, own)):
            return
        std = self.config.initializer_range
        if isinstance(layer, (nn.Linear, nn.Embedding, CrossAttention)):
            for parameter in own:
                _fill(parameter, std if parameter.ndim == 2 else 0.0)
        elif isinstance(layer, Resampler):
            _fill(layer.query, 0.02)
            side = round(layer.pos_embed.shape[0] ** 0.5)
            layer.pos_embed.set_value(
                paddle.to_tensor(sine_positions(layer.pos_embed.shape[1], side), layer.pos_embed.dtype)
            )
        elif isinstance(layer, VisionTransformer):
            _fill(layer.positional_embedding, layer.config.width**-0.5)
            _fill(layer.proj, layer.config.output_dim**-0.5)
        elif isinstance(layer, nn.Conv2D):
            _fill(layer.weight, std)


def _fill(parameter: paddle.Tensor, std: float) -> None:
    parameter.set_value((paddle.randn(parameter.shape, dtype="float32") * std).astype(parameter.dtype))


def next_token_loss(logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
    """Mean cross entropy of predicting ``labels`` one position ahead, in float32; labels of −100 do not count.

    Where no label counts the loss is 0.

    Args:
        logits: ``[batch, length, vocab]``.
        labels: int ``[batch, length]``, aligned with the inputs.
    """
    predicted = logits[:, :-1].reshape([-1, logits.shape[-1]]).astype("float32")
    following = labels[:, 1:].reshape([-1])
    total = F.cross_entropy(predicted, following, ignore_index=IGNORE_INDEX, reduction="sum")
    # Paddle's own mean would divide by the ignored positions as well: it leaves them out for non-negative ids only.
    return total / (following != IGNORE_INDEX).astype("float32").sum().clip(min=1.0)
