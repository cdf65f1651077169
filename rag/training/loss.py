"""The loss for groups of graded passages: which comes first, and what each score means.

Listwise cross-entropy alone orders well and leaves scores without a meaning; binary cross-entropy alone gives scores
that mean something and orders worse. Their sum trains a reranker whose floor can be trusted.
"""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers import CrossEncoder
from torch import Tensor, nn

TEACHER_TEMPERATURE = 0.5
"""A teacher's numbers, in standard deviations of their group, are divided by it before the softmax."""


class GradedGroupLoss(nn.Module):
    """ListNet over the group plus binary cross-entropy on each pair, for labels in [0, 1].

    Inputs as sentence-transformers' ListNetLoss takes them: (queries, lists of passages) and a list of labels for each
    query; groups may differ in size. A third input, one truth value a query, says of which groups the size of labels
    means something; the others teach their order only. A fourth, a list of numbers a query (empty: none), is a
    teacher's order: the listwise target is then a mixture of both distributions. A group whose labels are all the same,
    as of a question that no passage answers, has no order and teaches scores only. Pairs are run in mini-batches of
    similar length, so that little is padded.

    Args:
        model: A cross-encoder with one logit.
        pointwise_weight: Weight of the binary cross-entropy; the listwise term has weight 1.
        temperature: Labels are divided by it before the softmax that makes the target distribution.
        teacher_weight: Share of the teacher's distribution in the mixture, in [0, 1].
        mini_batch_size: Pairs in one forward pass.

    Source: Cao et al. 2007, "Learning to Rank: From Pairwise Approach to Listwise Approach" (ListNet).
    """

    def __init__(
        self,
        model: CrossEncoder,
        *,
        pointwise_weight: float = 0.5,
        temperature: float = 0.15,
        teacher_weight: float = 0.5,
        mini_batch_size: int = 16,
    ) -> None:
        super().__init__()
        self.model = model
        self.pointwise_weight = pointwise_weight
        self.temperature = temperature
        self.teacher_weight = teacher_weight
        self.mini_batch_size = mini_batch_size

    def forward(
        self, inputs: list[Any], labels: list[Tensor], prompt: str | None = None, task: str | None = None
    ) -> Tensor:
        """The mean loss over the batch, a scalar."""
        queries, groups = inputs[:2]
        scored = inputs[2] if len(inputs) > 2 else [True] * len(groups)
        teachers = inputs[3] if len(inputs) > 3 else [()] * len(groups)
        pairs = [(query, passage) for query, group in zip(queries, groups, strict=True) for passage in group]
        logits = self._logits(pairs, prompt or self.model.prompts.get(self.model.default_prompt_name or ""))
        sizes = [len(group) for group in groups]
        group_logits = torch.split(logits, sizes)
        group_targets = [label.float().to(logits.device) for label in labels]
        listwise = [
            nn.functional.cross_entropy(one, wanted)
            for one, target, teacher in zip(group_logits, group_targets, teachers, strict=True)
            if (wanted := self._wanted(target, target.new_tensor(teacher))) is not None
        ]
        meant = [number for number, means in enumerate(scored) if means]
        loss = logits.sum() * 0.0  # a batch without any term still has a gradient
        if listwise:
            loss = loss + torch.stack(listwise).sum() / len(groups)
        if meant and self.pointwise_weight:
            pointwise = nn.functional.binary_cross_entropy_with_logits(
                torch.cat([group_logits[number] for number in meant]),
                torch.cat([group_targets[number] for number in meant]),
            )
            loss = loss + self.pointwise_weight * pointwise
        return loss

    def _wanted(self, labels: Tensor, teacher: Tensor) -> Tensor | None:
        """The distribution over a group's passages that its logits are to have; None where all are equal."""
        parts = []
        if labels.max() > labels.min():
            parts.append((1 - self.teacher_weight, torch.softmax(labels / self.temperature, dim=0)))
        if len(teacher) and teacher.max() > teacher.min():
            standardised = (teacher - teacher.mean()) / teacher.std(correction=0)
            parts.append((self.teacher_weight, torch.softmax(standardised / TEACHER_TEMPERATURE, dim=0)))
        weight = sum(share for share, _ in parts)
        return torch.stack([share / weight * part for share, part in parts]).sum(dim=0) if weight else None

    def _logits(self, pairs: list[tuple[str, str]], prompt: str | None) -> Tensor:
        """One logit a pair, in input order, float32."""
        by_length = sorted(range(len(pairs)), key=lambda position: len(pairs[position][0]) + len(pairs[position][1]))
        found = []
        for start in range(0, len(pairs), self.mini_batch_size):
            batch = [pairs[position] for position in by_length[start : start + self.mini_batch_size]]
            features = {
                name: value.to(self.model.device) if isinstance(value, Tensor) else value
                for name, value in self.model.preprocess(batch, prompt=prompt).items()
            }
            found.append(self.model(features)["scores"].view(-1).float())
        in_order = torch.empty(len(pairs), dtype=torch.long)
        in_order[torch.tensor(by_length)] = torch.arange(len(pairs))
        return torch.cat(found)[in_order.to(found[0].device)]

    def get_config_dict(self) -> dict[str, float]:
        """What sentence-transformers writes into the model card."""
        return {
            "pointwise_weight": self.pointwise_weight,
            "temperature": self.temperature,
            "teacher_weight": self.teacher_weight,
            "mini_batch_size": self.mini_batch_size,
        }
