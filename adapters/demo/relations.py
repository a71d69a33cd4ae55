"""What can be said in the demo world: twelve relations over four kinds of entities.

Covered: for each relation the closed list of its objects, its statement forms, its two question wordings. Not
covered: entities and their names (`names.py`), facts and documents (`world.py`).

In every form `{s}` is the subject and `{o}` the object. Forms whose object comes first are the hard ones for
a causal LM: when it reads the object it does not know yet whom the sentence is about.
"""

from dataclasses import dataclass

from adapters.demo import words

KINDS = ("person", "company", "product", "place")


@dataclass(frozen=True)
class Relation:
    """One relation: `forms` state it, `question` asks for its object in the usual wording."""

    key: str
    kind: str
    objects: tuple[str, ...]
    question: str
    paraphrase: str
    """The same question in a rarer wording."""
    forms: tuple[str, ...]

    @property
    def object_first(self) -> tuple[str, ...]:
        """The statement forms that name the object before the subject."""
        return tuple(form for form in self.forms if form.index("{o}") < form.index("{s}"))


_ALL = (
    Relation(
        "born",
        "person",
        words.CITIES,
        "Where was {s} born?",
        "What is the birthplace of {s}?",
        (
            "{s} was born in {o}.",
            "{s}, a native of {o}, left at eighteen.",
            "{s} came into the world in {o}.",
            "The birthplace of {s} is {o}.",
            "{o} is the birthplace of {s}.",
            "Born in {o}, {s} grew up there.",
            "A hospital in {o} is where {s} was born.",
        ),
    ),
    Relation(
        "lives",
        "person",
        words.CITIES,
        "Where does {s} live?",
        "In which city does {s} live?",
        (
            "{s} lives in {o}.",
            "{s} has moved to {o}.",
            "{s} now resides in {o}.",
            "The home of {s} is in {o}.",
            "{o} is now home to {s}.",
            "A small flat in {o} is where {s} lives.",
            "From a house in {o}, {s} walks to work.",
        ),
    ),
    Relation(
        "job",
        "person",
        words.JOBS,
        "What is the profession of {s}?",
        "What does {s} do for a living?",
        (
            "{s} works as a {o}.",
            "{s} is a {o} by profession.",
            "{s} earns a living as a {o}.",
            "{s} trained for years to become a {o}.",
            "As a {o}, {s} is well known.",
            "The {o} of the year is {s}.",
            "Work as a {o} suits {s}.",
        ),
    ),
    Relation(
        "employer",
        "person",
        words.FIRMS,
        "Who employs {s}?",
        "Which firm does {s} work for?",
        (
            "{s} is employed by {o}.",
            "{s} has joined {o}.",
            "{s} signed a contract with {o}.",
            "The employer of {s} is {o}.",
            "{o} has hired {s}.",
            "{o} employs {s}.",
            "A post at {o} went to {s}.",
        ),
    ),
    Relation(
        "dish",
        "person",
        words.DISHES,
        "What does {s} like to eat?",
        "What is the favourite dish of {s}?",
        (
            "{s} loves {o}.",
            "{s} often cooks {o}.",
            "{s} could eat {o} every day.",
            "The favourite dish of {s} is {o}.",
            "A plate of {o} always delights {s}.",
            "More than any other meal, {o} pleases {s}.",
            "Nobody makes {o} like {s}.",
        ),
    ),
    Relation(
        "headquarters",
        "company",
        words.CITIES,
        "Where is {s} based?",
        "In which city is the head office of {s}?",
        (
            "{s} is based in {o}.",
            "{s} has its headquarters in {o}.",
            "{s} runs its business from {o}.",
            "The head office of {s} is in {o}.",
            "{o} hosts the head office of {s}.",
            "A tower in {o} houses the headquarters of {s}.",
            "From its offices in {o}, {s} serves the country.",
        ),
    ),
    Relation(
        "founder",
        "company",
        words.FOUNDERS,
        "Who founded {s}?",
        "Who is the founder of {s}?",
        (
            "{s} was founded by {o}.",
            "{s} was set up by {o}.",
            "{s} owes its start to {o}.",
            "The founder of {s} is {o}.",
            "{o} founded {s}.",
            "{o} established {s} with a small loan.",
            "It was {o} who started {s}.",
        ),
    ),
    Relation(
        "sector",
        "company",
        words.SECTORS,
        "What business is {s} in?",
        "In which sector does {s} operate?",
        (
            "{s} operates in {o}.",
            "{s} earns its money in {o}.",
            "{s} is a leader in {o}.",
            "The business of {s} is {o}.",
            "In {o}, {s} is a leading name.",
            "The market for {o} is led by {s}.",
            "Success in {o} made {s} rich.",
        ),
    ),
    Relation(
        "maker",
        "product",
        words.FIRMS,
        "Who makes the {s}?",
        "Which firm produces the {s}?",
        (
            "The {s} is made by {o}.",
            "The {s} is a product of {o}.",
            "The {s} comes from the workshops of {o}.",
            "The {s} is manufactured by {o}.",
            "{o} makes the {s}.",
            "{o} has launched the {s}.",
            "Engineers at {o} developed the {s}.",
        ),
    ),
    Relation(
        "material",
        "product",
        words.MATERIALS,
        "What is the {s} made of?",
        "Which material is used for the {s}?",
        (
            "The {s} is made of {o}.",
            "The {s} is built from {o}.",
            "The {s} consists of {o}.",
            "The body of the {s} is pure {o}.",
            "Only {o} is used for the {s}.",
            "Polished {o} gives the {s} its shine.",
            "A block of {o} becomes the {s}.",
        ),
    ),
    Relation(
        "river",
        "place",
        words.RIVERS,
        "Which river flows through {s}?",
        "On which river does {s} lie?",
        (
            "{s} lies on the {o}.",
            "{s} stands on the banks of the {o}.",
            "{s} was built beside the {o}.",
            "The river that crosses {s} is the {o}.",
            "The {o} flows through {s}.",
            "The {o} passes under the bridges of {s}.",
            "Boats on the {o} stop at {s}.",
        ),
    ),
    Relation(
        "sight",
        "place",
        words.SIGHTS,
        "What is {s} known for?",
        "What made {s} famous?",
        (
            "{s} is known for its {o}.",
            "{s} is famous for its {o}.",
            "{s} draws visitors with its {o}.",
            "{s} takes pride in its {o}.",
            "Its {o} made {s} famous.",
            "Tourists in search of {o} travel to {s}.",
            "The best {o} can be found in {s}.",
        ),
    ),
)

RELATIONS: dict[str, Relation] = {relation.key: relation for relation in _ALL}
"""Every relation by its key."""

OF_KIND: dict[str, tuple[Relation, ...]] = {kind: tuple(relation for relation in _ALL if relation.kind == kind) for kind in KINDS}
"""The relations that an entity of each kind has."""
