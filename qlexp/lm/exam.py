"""All that is asked of a model, frozen or adapted: the test split, and what it could do before."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qlexp.lm.data import Data
from qlexp.lm.evaluate import mean_loss, right_answers, smoothed_error, text_loss
from qlexp.lm.tokens import Encoded

Right = dict[str, list[bool]]  # by task, whether each answer is right

_TRAINED = 128  # training samples of each task that a loss is taken over


@dataclass(frozen=True)
class Exam:
    """What came of it; losses are nats a token.

    Attributes:
        train_loss: over the first training samples of each task.
        right: on the test split.
        untrained: on tasks that are not trained.
        neutral_loss: of running text.
    """

    train_loss: float
    validation_loss: float
    test_loss: float
    right: Right
    untrained: Right
    neutral_loss: float

    @property
    def every(self) -> list[bool]:
        return [one for own in self.right.values() for one in own]

    @property
    def accuracy(self) -> float:
        return mean(self.every)

    @property
    def error(self) -> float:
        return smoothed_error(self.every)


def examine(model: Any, data: Data, tokenizer: Any) -> Exam:
    """Examines a model that is in evaluation mode."""
    padding = tokenizer.pad_token_id
    return Exam(
        train_loss=mean_loss(
            model, [one for own in data.train.values() for one in own[:_TRAINED]], padding
        ),
        validation_loss=mean_loss(model, joined(data.validation), padding),
        test_loss=mean_loss(model, joined(data.test), padding),
        right=answered(model, data.test, tokenizer),
        untrained=answered(model, data.untrained, tokenizer),
        neutral_loss=text_loss(model, data.neutral),
    )


def answered(model: Any, samples: Mapping[str, Sequence[Encoded]], tokenizer: Any) -> Right:
    """By task, whether each question is answered rightly."""
    return {name: right_answers(model, own, tokenizer) for name, own in samples.items()}


def constant_accuracy(data: Data) -> float:
    """The share of the test split that the most frequent training answer of its task answers: what
    a model gets that has learnt the answers and not the questions."""
    right = []
    for name, own in data.test.items():
        answers = Counter(one.sample.answer for one in data.train[name])
        ((answer, _),) = answers.most_common(1)
        right += [one.sample.judge(answer) for one in own]
    return mean(right)


def joined(samples: Mapping[str, Sequence[Encoded]]) -> list[Encoded]:
    """The samples of every task."""
    return [one for own in samples.values() for one in own]


def shares(right: Right) -> dict[str, float]:
    """By task the share of right answers."""
    return {name: mean(own) for name, own in right.items()}


def mean(right: Sequence[bool]) -> float:
    return sum(right) / len(right)
