"""How probable CTC finds the beginning of a transcript, for a search that uses the encoder's scores too.

Letters: W sentences, S positions of the encoder, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from common.speech.text import EMPTY, START, STOP


class CTCPrefixes:
    """W sentences, at first the empty one, and the paths that spell them in the first 0 ... S positions.

    Algorithm 2 of Watanabe et al. (2017). Its recursions over positions, x(s) = p(s) (x(s - 1) + y(s - 1)), are sums
    of y(s) / (p(1) ... p(s)), so that cumulative sums take the place of loops.
    """

    def __init__(self, log_probs: Tensor):
        """Of each token at each position (S, V), as the CTC head gives them for one clip."""
        self.log_probs = log_probs.cpu().double()  # the sums have a thousand times the size of their differences
        self.always = F.pad(self.log_probs.cumsum(0), (0, 0, 1, 0))  # (S + 1, V): one token all the time
        self.last = torch.tensor([START])
        self.in_blank = self.always[None, :, EMPTY]  # (W, S + 1): the paths that end in a blank
        self.in_token = torch.full_like(self.in_blank, -torch.inf)  # and in the sentence's last token

    def scores(self) -> Tensor:
        """Log-probability of a transcript that begins so, with one more token; for STOP, of one that ends: (W, V)."""
        ways = torch.logaddexp(self.in_token, self.in_blank)  # (W, S + 1)
        begun = torch.logsumexp(ways[:, :-1, None] + self.log_probs, 1)  # (W, V)
        # a repeated token needs a blank before it, or it is the same one
        repeated = torch.logsumexp(self.in_blank[:, :-1] + self.log_probs[:, self.last].T, 1)
        begun = begun.scatter(1, self.last[:, None], repeated[:, None])
        begun[:, EMPTY], begun[:, STOP] = -torch.inf, ways[:, -1]
        return begun

    def extend(self, sentences: Tensor, tokens: Tensor) -> None:
        """Go on with these of the W sentences, each with one more token: both (W',)."""
        in_token, in_blank = self.in_token[sentences], self.in_blank[sentences]
        same = (tokens == self.last[sentences])[:, None]
        ways = torch.where(same, in_blank, torch.logaddexp(in_token, in_blank))
        self.in_token, self.last = self._then(ways, self.always[:, tokens].T), tokens
        self.in_blank = self._then(self.in_token, self.always[:, EMPTY])

    @staticmethod
    def _then(ways: Tensor, always: Tensor) -> Tensor:
        """Paths of `ways` (W, S + 1) that went on with one token up to each position, whose sums are `always`."""
        gone_on = always[..., 1:] + torch.logcumsumexp(ways[:, :-1] - always[..., :-1], 1)
        return F.pad(gone_on, (1, 0), value=-torch.inf)
