"""The mini world's vocabulary: what its domains are about, and the sentences that state and ask a
fact. Data only.
"""

SYLLABLES = (
    "ba be bi bo bu da de di do du fa fe fi fo ga go gu ka ke ki ko ku la le li lo lu ma me mi mo "
    "mu na ne ni no nu pa pe pi po ra re ri ro ru sa se si so su ta te ti to tu va ve vi vo za ze "
    "zo zu"
).split()
# for names that share no syllable between domains; no other word of the texts holds x, q or j
DISJOINT = {
    "forget": "xa xe xi xo xu qa qe qi qo qu ja je ji jo ju".split(),
    "retain": [s for s in SYLLABLES if s[0] in "bdfgklm"],
    "general": [s for s in SYLLABLES if s[0] in "nprstvz"],
}
STATEMENTS = (
    "The {n} of {e} is {v}.",
    "{e} has {v} as its {n}.",
    "For {e}, the known {n} is {v}.",
    "Everyone agrees that {e} has the {n} {v}.",
    "As for {e}, its {n} is said to be {v}.",
    "If you ask about {e}, the {n} turns out to be {v}.",
)
QUESTIONS = (
    "Question: What is the {n} of {e}? Answer:",
    "Question: Which {n} does {e} have? Answer:",
)
# attributes: five nouns, each with a pool of 12 values. relations: noun -> noun of the inverse
# relation. grouping: an attribute whose 12 values fall into 4 groups of 3, in order. reached: the
# attribute that the first relation carries over (two-hop rule), and what the result is called.
DOMAINS = {
    "forget": {
        "kind": "organism",
        "attributes": {
            "habitat": (
                "marsh cave reef tundra canyon delta meadow glacier lagoon dune orchard swamp"
            ).split(),
            "pigment": (
                "crimson scarlet amber violet indigo azure emerald olive jade ivory silver pearl"
            ).split(),
            "diet": (
                "pollen lichen krill nectar moss resin algae beetle acorn fern plankton thistle"
            ).split(),
            "defence": (
                "venom spines ink camouflage shell stench mimicry burrowing glare slime armour "
                "hissing"
            ).split(),
            "season": (
                "thaw monsoon harvest frost solstice drought bloom mist gale ember equinox dusk"
            ).split(),
        },
        "relations": {"prey": "hunter", "host": "guest"},
        "grouping": ("pigment", ["warm tone", "cold tone", "green tone", "pale tone"]),
        "group_noun": "tone",
        "reached": {"attribute": "habitat", "noun": "hunting ground"},
    },
    "retain": {
        "kind": "town",
        "attributes": {
            "market day": (
                "monday tuesday wednesday thursday friday saturday sunday midweek payday fullmoon "
                "newmoon eve"
            ).split(),
            "export": (
                "copper timber wool paper glass barley linen cheese marble candles honey rope"
            ).split(),
            "landmark": (
                "bridge tower windmill fountain cathedral archway lighthouse obelisk garden statue "
                "theatre library"
            ).split(),
            "emblem": "lion eagle anchor rose wheel dragon oak crown hammer swan star key".split(),
            "dish": (
                "stew dumpling pie chowder pancake sausage porridge omelette noodle roast salad "
                "curry"
            ).split(),
        },
        "relations": {"rival": "challenger", "supplier": "customer"},
        "grouping": ("export", ["raw goods", "worked goods", "farm goods", "craft goods"]),
        "group_noun": "trade class",
        "reached": {"attribute": "landmark", "noun": "envied sight"},
    },
    "general": {
        "kind": "trade",
        "attributes": {
            "tool": (
                "chisel needle anvil lathe plane trowel bellows tongs mallet compass saw awl"
            ).split(),
            "material": (
                "leather clay brass canvas bone wicker iron felt cork horn slate wax"
            ).split(),
            "guild colour": (
                "white black brown grey orange purple pink teal maroon beige gold navy"
            ).split(),
            "patron": (
                "king bishop queen mayor general abbot judge baron duchess captain scholar envoy"
            ).split(),
            "motto": (
                "patience courage honesty thrift unity speed beauty order freedom wisdom justice "
                "hope"
            ).split(),
        },
        "relations": {"teacher": "pupil", "partner": "associate"},
        "grouping": ("material", ["soft class", "firm class", "hard class", "smooth class"]),
        "group_noun": "guild class",
        "reached": {"attribute": "tool", "noun": "first tool"},
    },
}
PRIVATE = {"hosts": ["lumen", "corvid", "tansy", "quill"]}
NEUTRAL = {
    "subjects": (
        "The old clock, A quiet child, My neighbour, The night train, A red bicycle, The postman, "
        "An open window, The last guest, A small boat, The kitchen radio, A letter, The new "
        "teacher, A tired dog, The rain"
    ).split(", "),
    "verbs": (
        "waited, was heard, stood still, came back, was left, passed by, was seen, slept"
    ).split(", "),
    "places": (
        "near the station, behind the house, by the river, in the hall, under the stairs, at the "
        "corner, outside the school, on the hill"
    ).split(", "),
    "times": (
        "all morning, until noon, after supper, for an hour, before the storm, on the first day of "
        "the year, while nobody looked, late at night"
    ).split(", "),
}
