"""The prompts of five families of tasks, in words of our own.

They are organised as P5's (Geng et al., RecSys 2022): a prompt has P5's id, and asks of a sample
what P5's prompt of that id asks. The last of each family is held out: it is never trained, and
measures how well a task is understood in words that were not seen. Items are named by title, and a
target that is an item is its title. `{user_id}` and `{item_id}` are numbers drawn at random.

P5 has no prompt like 1-11, which tells the user's earlier ratings; without it a user's number is
all that a model can learn from who rates high.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Literal

from recjax.recsysllm.passages import places

Family = Literal["rating", "sequential", "explanation", "review", "direct"]
FAMILIES: tuple[Family, ...] = ("rating", "sequential", "explanation", "review", "direct")
HELD_OUT = frozenset({"1-10", "2-13", "3-12", "4-4", "5-8"})


@dataclasses.dataclass(frozen=True)
class TaskPrompt:
    """A question and the field that answers it.

    Attributes:
        id: family and number, P5's.
        source: the question, with places for fields.
        target: the answer, with places for fields.
    """

    id: str
    source: str
    target: str

    @property
    def family(self) -> Family:
        """Which of `FAMILIES`."""
        return FAMILIES[int(self.id.partition("-")[0]) - 1]

    @functools.cached_property
    def fields(self) -> frozenset[str]:
        """The fields that a sample needs."""
        return places(self.source) | places(self.target)

    @property
    def held_out(self) -> bool:
        """Whether it is never trained."""
        return self.id in HELD_OUT


_RATING = "{star_rating}"
_YES, _LIKE = "{yes_no}", "{like_dislike}"
_ITEM, _WHY = "{target_title}", "{explanation}"
_BOTH = "{star_rating}; {explanation}"
_TABLE: dict[str, tuple[str, str]] = {
    # Rating
    "1-1": ("How many stars will {user_id} give to {item_id}? Stars from 1 to 5:", _RATING),
    "1-2": ("Stars from 1 to 5 that {user_id} gives to the {item} {item_title}:", _RATING),
    "1-3": ("Is it true that {user_id} rates {item_id} with {asked_rating} stars?", _YES),
    "1-4": ("Will {user_id} like or dislike {item_id}?", _LIKE),
    "1-5": (
        "{user_id} rates {item_id}, which is {item_title}. Choose among 1, 2, 3, 4 and 5 stars:",
        _RATING,
    ),
    "1-6": ("How many stars does this user give to {item_id}? User: {user_desc}. Stars:", _RATING),
    "1-7": ("User: {user_desc}. Stars for the {item} {item_title}:", _RATING),
    "1-8": ("User: {user_desc}. Are {asked_rating} stars right for {item_title}?", _YES),
    "1-9": ("User: {user_desc}. Is {item_title} liked or disliked?", _LIKE),
    "1-10": ("Guess from 1 to 5 how well {item_title} pleases this user: {user_desc}.", _RATING),
    "1-11": (
        "Stars that {user_id} gave so far: {rated}. Stars from 1 to 5 for the {item} {item_title}:",
        _RATING,
    ),
    # Sequential
    "2-1": ("{user_id} has {past}, oldest first: {history}. The next {item}:", _ITEM),
    "2-2": ("These {items} were {past} by {user_id} so far: {history}. What comes after?", _ITEM),
    "2-3": ("{history} is the {doing} history of {user_id}. Name the next {item}.", _ITEM),
    "2-4": ("User: {user_desc}. {past} so far: {history}. Next {item}:", _ITEM),
    "2-5": ("A user ({user_desc}) has {past} {history}. Which {item} follows?", _ITEM),
    "2-6": ("After {doing} {history}, a user ({user_desc}) goes on with", _ITEM),
    "2-7": (
        "{user_id} has {past} {history}. Of the candidates {candidates}, the next one is", _ITEM,
    ),
    "2-8": ("User: {user_desc}. History: {history}. Candidates: {candidates}. Choose one:", _ITEM),
    "2-9": ("Candidates: {candidates}. History of {user_id}: {history}. The one to come:", _ITEM),
    "2-10": (
        "Which of {candidates} follows {history} in the {doing} list of a user ({user_desc})?",
        _ITEM,
    ),
    "2-11": ("{user_id} has {past} {history}. Is {asked_title} the next {item}?", _YES),
    "2-12": ("User: {user_desc}. History: {history}. Does {asked_title} come next?", _YES),
    "2-13": ("What will a user ({user_desc}) choose, who has {past} {history}?", _ITEM),
    # Explanation
    "3-1": ("Why does {user_id} think so of {item_title}?", _WHY),
    "3-2": ("{user_id} heads a review of {item_id} with '{review_headline}'. The reason:", _WHY),
    "3-3": ("{user_id} gave {star_rating} stars to {item_title}. Explain:", _WHY),
    "3-4": ("User: {user_desc}. Say why, of {item_title}:", _WHY),
    "3-5": (
        "User: {user_desc}. Headline: '{review_headline}'. {item}: {item_title}. Explain:", _WHY,
    ),
    "3-6": ("User: {user_desc}. {star_rating} stars for {item_id}, because", _WHY),
    "3-7": ("{user_id} on {item_id}, with '{feature}' in it: stars, and the reason:", _BOTH),
    "3-8": ("User: {user_desc}. Stars for {item_id}, and the reason:", _BOTH),
    "3-9": ("What does {user_id} say on '{feature}' of {item_title}?", _WHY),
    "3-10": ("User: {user_desc}. Explain {item_title} with the word '{feature}':", _WHY),
    "3-11": ("{user_id}, {star_rating} stars, {item_id}, word '{feature}'. The reason:", _WHY),
    "3-12": (
        "With '{feature}' in mind, why are {star_rating} stars right for {item_id}? A user says "
        "({user_desc}):", _WHY,
    ),
    # Review
    "4-1": ("Sum up this review by {user_id}: {review_body} Headline:", "{review_headline}"),
    "4-2": ("{user_id} writes: {review_body} How many stars?", _RATING),
    "4-3": ("User: {user_desc}. Review: {review_body} In a few words:", "{review_headline}"),
    "4-4": ("Stars that go with what a user ({user_desc}) writes: {review_body}", _RATING),
    # Direct recommendation
    "5-1": ("Should {asked_id} be recommended to {user_id}?", _YES),
    "5-2": ("Is {asked_id} something for this user: {user_desc}?", _YES),
    "5-3": ("User: {user_desc}. Recommend {asked_title}?", _YES),
    "5-4": ("Does {asked_title} suit {user_id}?", _YES),
    "5-5": ("User: {user_desc}. Which of these to recommend: {candidates}?", _ITEM),
    "5-6": ("From {candidates}, a user ({user_desc}) would choose", _ITEM),
    "5-7": ("The best {item} for {user_id} among {candidates} is", _ITEM),
    "5-8": ("Pick one {item} out of {candidates} that {user_id} will want:", _ITEM),
}  # fmt: skip
PROMPTS: Mapping[str, TaskPrompt] = {
    id: TaskPrompt(id, source, target) for id, (source, target) in _TABLE.items()
}
# Where an answer is a text of free length, its blank is `[gMASK]`.
LONG = frozenset({"explanation", "review_headline"})
