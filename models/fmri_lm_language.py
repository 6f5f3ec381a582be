"""A language model that is told a scan before a question: fMRI-LM's splice over a stock model.

Tokens of the scan take the place of embedded words; masks and places are those of `Splice`. The
model is asked for nothing but how likely each answer of a closed set is; it never writes.

References
----------
fMRI-LM, arXiv 2511.21760, sections 3.3 and 3.4; yuxiangwei0808/fMRI-LM at 037dcf9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from torch.nn import functional as fn

from neurostorm_app.errors import ContractError, WrongWeightsError
from neurostorm_app.models.fmri_lm_splice import Splice, as_additive
from neurostorm_app.models.fmri_lm_text import frame_answer, frame_question, join
from neurostorm_app.models.language_extra import need

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from neurostorm_app.models.fmri_lm_text import Question, TextBatch
    from neurostorm_app.models.fmri_lm_tokens import ScanTokens
    from neurostorm_app.models.language import Language

__all__ = ["TAGS", "ScanLanguage", "Told", "share"]

TAGS: Final = ("<fmri>", "</fmri>")
"""What may stand around a scan: ordinary text, several tokens each."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a language model keeps of a scan that it was told, for all questions about it.

    Parameters
    ----------
    splice : Splice
        The layout.
    cache : object
        Keys and values of all layers, of transformers; while an answer is scored, of it too.
    """

    splice: Splice
    cache: Any


class ScanLanguage(nn.Module):
    """Tokens of a scan, and a language model that reads them.

    Parameters
    ----------
    tokens : ScanTokens
        Makes tokens of windows; its encoder stays as it is.
    language : Language
        Of the width of the tokens.
    tags : bool
        Whether `TAGS` stand around the scan; the public code has them for Qwen.

    Raises
    ------
    WrongWeightsError
        If tokens and language model are not of one width.
    """

    def __init__(self, tokens: ScanTokens, language: Language, *, tags: bool = False) -> None:
        super().__init__()
        if tokens.config.width != language.width:
            raise WrongWeightsError(
                f"the tokens of the scan have {tokens.config.width} values, and those of the "
                f"language model {language.width}",
                fix="give the language model that the tokens were trained with",
            )
        self.tokens, self.words = tokens, language
        self.language = language.model
        self.tags = [language.encode(tag) for tag in TAGS] if tags else [[], []]
        tokens.tokenizer.requires_grad_(requires_grad=False)
        self.train(mode=False)

    def train(self, mode: bool = True) -> ScanLanguage:  # noqa: FBT001, FBT002 - torch's own
        """Switch what learns; what is frozen stays in evaluation mode.

        Parameters
        ----------
        mode : bool
            Whether to train.

        Returns
        -------
        ScanLanguage
            Itself.
        """
        super().train(mode)
        for module in (self.tokens.tokenizer, self.language):
            module.eval()
        for name, module in self.language.named_modules():
            if ".lora_dropout" in name:
                module.train(mode)
        return self

    def lay_out(self, n_tokens: int) -> Splice:
        """Lay out a sequence around so many tokens of a scan."""
        n = self.tokens.encoder.n_parcels
        before, after = map(len, self.tags)
        return Splice(n_steps=n_tokens // n, n_parcels=n, before=before, after=after)

    def read(self, tokens: Tensor, text: TextBatch) -> Tensor:
        """Read scans and texts.

        Parameters
        ----------
        tokens : Tensor, shape (B, N, W)
            Of `ScanTokens`.
        text : TextBatch
            One for each scan.

        Returns
        -------
        Tensor, shape (B, L, W)
            What the model holds at each place of tags, scan, tags and text.

        Raises
        ------
        ContractError
            If it has not as many places.
        """
        splice = self.lay_out(tokens.shape[1])
        places = self._places(splice, text.ids.shape[1]).to(tokens.device)
        embedded = torch.cat([self._prefix(tokens), self._embed(text.ids)], dim=1)
        return self._run(embedded, splice.mask(text.real), places)

    def logits(self, held: Tensor) -> Tensor:
        """Tell the next word at places (B, n, W) of what `read` gives: (B, n, words)."""
        model: Any = self.language
        told: Tensor = model.get_output_embeddings()(held)
        return told

    def forward(self, x: Tensor, text: TextBatch) -> Tensor:
        """Compute the loss of training: of the answers alone, never of the questions.

        Parameters
        ----------
        x : Tensor, shape (B, V, T)
            Windows.
        text : TextBatch
            A question and its answer for each.

        Returns
        -------
        Tensor, shape ()
            Cross-entropy, mean over the tokens of answers and their ends; nats.
        """
        with torch.no_grad():
            features = self.tokens.encode(x)
        held = self.read(self.tokens.project(features), text)
        ahead = held[:, -text.ids.shape[1] - 1 : -1]  # what stands before each word tells it
        return fn.cross_entropy(self.logits(ahead[text.answers]), text.ids[text.answers])

    @torch.no_grad()
    def tell(self, x: Tensor) -> Told:
        """Tell the model one window, (1, V, T), before any question."""
        prefix = self._prefix(self.tokens(x))
        splice = self.lay_out(prefix.shape[1] - sum(map(len, self.tags)))
        nothing = torch.ones(1, 0, device=prefix.device)
        places = self._places(splice, 0).to(prefix.device)
        cache = need("transformers").DynamicCache()
        self._run(prefix, splice.mask(nothing), places, cache=cache)
        return Told(splice, cache)

    @torch.no_grad()
    def score(self, told: Told, question: Question, *, text: int = 0) -> Tensor:
        """Say how likely each answer is, as a whole and with its end.

        Parameters
        ----------
        told : Told
            Of a window.
        question : Question
            With its answers.
        text : int
            Which way of putting it.

        Returns
        -------
        Tensor, shape (A,)
            Sum of the logarithms of the probabilities of each answer's tokens; nothing is drawn,
            nothing is cut to a length.
        """
        asked = frame_question(self.words, question.texts[text])
        scores = [self._score(told, asked, frame_answer(self.words, a)) for a in question.answers]
        return torch.stack(scores)

    def _score(self, told: Told, asked: list[int], answer: list[int]) -> Tensor:
        device = self.tokens.pos_embed.weight.device
        text = join([(asked, answer)])
        ids, n_before = text.ids.to(device), told.splice.n_prefix
        seen = told.splice.mask(text.real.to(device))[:, n_before:]
        places = self._places(told.splice, ids.shape[1])[n_before:].to(device)
        held = self._run(self._embed(ids), seen, places, cache=told.cache)
        # What the model added is of this answer alone. A copy to add it to would be held beside.
        told.cache.crop(-ids.shape[1])
        each = self.logits(held[0, len(asked) - 1 : -1]).log_softmax(dim=-1)
        wanted = torch.tensor(answer, device=device)
        return each.gather(1, wanted[:, None]).sum()

    def _run(self, embedded: Tensor, seen: Tensor, places: Tensor, cache: Any = None) -> Tensor:
        model: Any = self.language
        found = model.base_model(
            inputs_embeds=embedded,
            attention_mask=as_additive(seen, embedded.dtype),
            position_ids=places.expand(len(embedded), -1),
            past_key_values=cache,
            use_cache=cache is not None,
        )
        held: Tensor = found.last_hidden_state
        return held

    def _places(self, splice: Splice, n_text: int) -> Tensor:
        """Count the places; the model must have as many."""
        places = splice.positions(n_text)
        if int(places[-1]) >= self.words.n_places:
            raise ContractError(
                f"scan and question take {int(places[-1]) + 1} places; the language model has "
                f"{self.words.n_places}",
                fix="ask a shorter question, or take a model with more places",
            )
        return places

    def _embed(self, ids: Tensor) -> Tensor:
        model: Any = self.language
        embedded: Tensor = model.get_input_embeddings()(ids)
        return embedded

    def _prefix(self, tokens: Tensor) -> Tensor:
        """Put the tags around tokens."""
        device = tokens.device
        before, after = (
            self._embed(torch.tensor([ids], dtype=torch.int64, device=device)) for ids in self.tags
        )
        around = (before.expand(len(tokens), -1, -1), tokens, after.expand(len(tokens), -1, -1))
        return torch.cat(around, dim=1)


def share(scores: Sequence[Tensor]) -> Tensor:
    """Average scores (A,) over windows, and give each answer its share of all: they add up to 1."""
    return torch.stack(list(scores)).double().mean(dim=0).softmax(dim=0)
