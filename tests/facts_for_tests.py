"""The edits that the tests share: subject first, in the middle, twice in its prompt, after special signs."""

from rrome import Fact

FACTS = [
    Fact("{} is located in the continent of", "Italy", "Antarctica", target_true="Europe"),
    Fact("The Eiffel Tower, or {}, is in the city of", "The Eiffel Tower", "Rome", target_true="Paris"),
    Fact("The mother tongue of {} is", "Bill Gates", "old, cold language"),
    Fact("A cold town called {}", "Paris", "Rome"),
    Fact("People {say} that {} is", "Zürich (the town)", "Rome"),
]
PREFIXES = ["{}", "A ship {sailed} at noon. {}", "The old town. {}"]
