"""Find what a prompt says about age and emotion: the words themselves, never a number or a label.

Age and emotion in words have inputs of their own (eqs 5, 7), which the text encoder reads. `find_phrases` cuts them out of
a prompt; understanding them stays with the encoder. Standard library only, English only.

An adjective counts only where it can belong to a person ("an old man", "looks angry", "angry, with a beard"), not before
another noun ("an old house", "happy birthday"). Of several phrases the most exact wins, then the first: figures before
decades before words. Two people in one prompt give the first one's words.

Not understood, and answered with None: negation ("not smiling"), comparison ("older than his sister"), metaphor ("young at
heart"), events ("turned thirty"), bare numbers ("she is 25"), adjectives before unknown nouns ("an old troubadour"), feelings
told by a story ("she lost her keys"), emojis, other languages. Taken for a person by mistake: an adjective up to four words
before somebody else ("a sad song, man").
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Far more than the text encoder's 77 tokens hold; keeps the time for hostile input small.
LONGEST_PROMPT = 1000


@dataclass(frozen=True)
class Phrases:
    """Substrings of the prompt in lower case with single spaces; None where it says nothing."""

    age: str | None
    emotion: str | None


def find_phrases(text: str) -> Phrases:
    """The words about age and emotion in `text`, of which the first LONGEST_PROMPT characters are read. Never raises."""
    lowered = " ".join(text[:LONGEST_PROMPT].lower().replace("\u2019", "'").split())
    return Phrases(_first(_AGES, lowered), _first(_EMOTIONS, lowered))


def _first(patterns: tuple[re.Pattern[str], ...], text: str) -> str | None:
    for pattern in patterns:
        for match in pattern.finditer(text):
            start = match.start("phrase")
            if not _NEGATION.search(text[max(0, start - _NEGATION_REACH) : start]):
                return match.group("phrase").strip()
    return None


def _any(words: str) -> str:
    """A pattern for one of the words, the longest first; an underscore stands for a space or a hyphen."""
    return "(?:" + "|".join(sorted((word.replace("_", "[ -]") for word in words.split()), key=len, reverse=True)) + ")"


_NEGATION_REACH = 40
_NEGATION = re.compile(
    r"\b(?:not|never|no longer|isn't|aren't|without|neither|nor|no|hardly) "
    r"(?:(?:an?|very|so|that|too|looking|feeling) ){0,3}$"
)

# --- who may be meant

# Nouns that an adjective may stand before when it speaks of a person. Endings catch most others ("violinist", "policeman").
_PERSON = (
    "(?:"
    + _any("""
    person people man men woman women guy guys lady ladies gentleman gentlemen girl girls boy boys male female face child
    children kid kids teen teenager adolescent adult adults youth senior seniors pensioner retiree baby toddler portrait
    someone somebody chap bloke fellow dude lad lass individual human one citizen couple mother father mom mum dad parent
    son daughter brother sister uncle aunt grandmother grandfather grandma grandpa wife husband king queen prince princess
    lord monk nun nurse doctor teacher student soldier sailor farmer worker actor actress singer dancer writer painter
    baker fisher hunter lawyer officer professor chef cook pilot player runner driver engineer model bride groom widow
    widower character subject hippie wizard witch knight warrior pirate
    """)
    + r"|[a-z]{2,30}(?:ist|ician|woman|man))\b"
)
_TO_PERSON = (
    r"(?=(?:[ ,]{1,2}(?!(?:an?|the|with|in|of|on|at|than|as|is|who)\b)[a-z0-9'-]{1,30}){0,4}?[ ,-]{1,2}" + _PERSON + ")"
)
# What may follow an adjective that stands after its noun: the end, punctuation, or a word that starts something new.
_ENDS = (
    r"(?= ?(?:$|[^\w '-]|--|\b"
    + _any("""
    and but or with without in on at by near against before behind from of as while when who whose wearing looking having
    has is was that because about to under today now inside outside next for during after like standing sitting
    """)
    + r"\b))"
)
_DEGREE = (
    "(?:"
    + _any("""
    very really quite rather fairly pretty so too extremely incredibly slightly somewhat mildly a_little a_bit a_little_bit
    a_tad kind_of sort_of deeply utterly totally absolutely visibly clearly moderately mostly completely truly terribly
    """)
    + " ){0,2}"
)
_VERB = "(?:" + _any("""
    look looks looking is are was seem seems seeming appear appears appearing feel feels feeling being getting becoming
    remains stays
    """) + " )"  # fmt: skip

# --- age

_ONES = "one two three four five six seven eight nine"
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fourty fifty sixty seventy eighty ninety"
_SPELLED = f"(?:{_any(_TENS)}(?:[ -]{_any(_ONES)})?|{_any(f'{_ONES} {_TEENS}')}|(?:a|one) hundred)"
_DIGITS = r"(?:1[01]\d|[1-9]?\d)"
_NUMBER = f"(?:{_DIGITS}|{_SPELLED})"
_ABOUT = "(?:" + _any("""
    about around roughly approximately nearly almost over under maybe perhaps only just at_least exactly circa
    """) + " )?"  # fmt: skip
_DECADE = (
    "(?:teens|" + _any("twenties thirties forties fourties fifties sixties seventies eighties nineties") + "|[1-9]0'?s)"
)
_AGE_ADJECTIVE = _any("""
    old young elderly aged older younger teenage teenaged adolescent middle_aged infant juvenile grown_up ancient senior
    youthful elder aging ageing
    """)
_AGE_NOUN = _any("""
    teenager teen adolescent toddler infant child children kid kids girl boy girls boys schoolboy schoolgirl youngster youth
    young_adult adult senior_citizen senior pensioner retiree septuagenarian octogenarian nonagenarian centenarian
    grandmother grandfather grandma grandpa granny grandad middle_aged elderly baby twenty_something thirty_something tween
    preteen newborn
    """)
_NOT_A_PERSON = "(?!'s|s'| (?:" + _any("blue pink band room seat care bottle shower carriage") + r")\b)"

_AGES = tuple(
    re.compile(pattern)
    for pattern in (
        # Figures: "72 years old", "a 72-year-old man", "30yo", "aged 72", "at the age of seventy", "of 72 years", "man, 72".
        rf"\b(?P<phrase>{_ABOUT}{_NUMBER}[ -]?(?:years?|yrs?\.?)(?:[ -]old| of age)\b){_ENDS}",
        rf"\b(?P<phrase>{_ABOUT}{_NUMBER}[ -]years?[ -]old){_TO_PERSON}",
        rf"\b(?P<phrase>{_ABOUT}{_NUMBER} ?(?:y/o|yo|y\.o\.))(?!\w)",
        rf"\b(?P<phrase>(?:at )?(?:the )?age[d:]? (?:of )?{_ABOUT}{_NUMBER}(?: years?)?)\b",
        rf"\b(?P<phrase>of {_ABOUT}{_NUMBER} years)\b(?! of )",
        rf"{_PERSON} (?P<phrase>of {_ABOUT}{_NUMBER})\b{_ENDS}",
        rf"{_PERSON}, (?P<phrase>{_ABOUT}{_DIGITS})(?= ?(?:$|[,.;!]))",
        # Decades: "in her late forties", "in his 70s".
        rf"\b(?P<phrase>(?:in )?(?:his|her|their|my|your) (?:(?:very )?(?:early|mid|middle|late)[ -])?{_DECADE})\b",
        # Words: "very old man", "an elderly, kind woman", "looks young", "a teenager", "beard, elderly".
        rf"\b(?P<phrase>{_DEGREE}{_AGE_ADJECTIVE} {_PERSON}){_NOT_A_PERSON}",
        rf"\b(?P<phrase>{_DEGREE}{_AGE_ADJECTIVE})\b{_TO_PERSON}",
        rf"\b(?P<phrase>{_VERB}{_DEGREE}{_AGE_ADJECTIVE})\b{_ENDS}",
        rf"\b(?P<phrase>(?:(?:very|small|little|young) )?{_AGE_NOUN})\b{_NOT_A_PERSON}",
        rf"(?:^|, )(?P<phrase>{_DEGREE}{_AGE_ADJECTIVE})(?= ?(?:$|[,.;!]))",
    )
)

# --- emotion

_FEELING = _any("""
    neutral expressionless impassive unemotional deadpan emotionless blank stoic poker_faced serious
    calm relaxed peaceful serene tranquil content contented composed placid at_ease at_peace dreamy
    happy cheerful pleased joyful delighted overjoyed glad merry elated ecstatic thrilled excited amused joyous jolly blissful
    euphoric radiant cheery jubilant playful proud thankful hopeful
    sad unhappy sorrowful gloomy wistful miserable heartbroken melancholy melancholic depressed tearful upset devastated
    downcast dejected mournful grieving glum lonely disappointed despairing desperate hurt
    angry cross mad annoyed irritated furious enraged livid outraged irate grumpy hostile infuriated wrathful frustrated
    aggressive bitter resentful indignant
    fearful scared frightened uneasy nervous afraid terrified horrified anxious worried panicked panicking petrified alarmed
    tense apprehensive spooked
    disgusted repulsed revolted sickened nauseated appalled contemptuous grossed_out
    surprised astonished amazed taken_aback stunned shocked startled astounded dumbfounded bewildered awestruck speechless
    flabbergasted
    """)
_DOING = _any("""
    smiling laughing grinning beaming frowning crying weeping sobbing scowling glaring screaming shouting yelling trembling
    sneering smirking sulking pouting giggling chuckling wincing gasping snarling
    """)
_DOING += (
    "(?: "
    + _any("slightly a_little a_bit broadly widely warmly gently softly faintly happily sadly angrily shyly")
    + r"\b)?"
)
_DOES = _any("smiles laughs grins frowns cries weeps scowls beams glares sobs")
_EMOTION_NOUN = _any("""
    smile grin frown scowl tears joy happiness sadness sorrow grief anger rage fury fear terror horror panic disgust contempt
    surprise astonishment amazement shock delight calm serenity despair anxiety fright smirk laugh
    """)
_MIEN = _any(
    "expression look face smile mood eyes gaze stare grimace demeanour demeanor features glance mien air emotion"
)
_SHOWN = f"{_DEGREE}(?:{_FEELING}|{_DOING})"

_EMOTIONS = tuple(
    re.compile(pattern)
    for pattern in (
        # "with a very angry expression"; "looks a little sad", "smiling broadly", "calm and happy"; "a furious old man".
        rf"\b(?P<phrase>with (?:(?:an?|the|his|her|their) )?{_DEGREE}{_FEELING}(?: [a-z]+)? {_MIEN})\b",
        rf"\b(?P<phrase>{_VERB}?{_SHOWN}(?: (?:and|but|yet) {_SHOWN})?)\b{_ENDS}",
        rf"\b(?P<phrase>{_SHOWN})\b{_TO_PERSON}",
        rf"\b(?P<phrase>{_SHOWN} {_MIEN})\b",
        rf"\b(?P<phrase>{_VERB}{_SHOWN})\b",
        rf"\b(?P<phrase>{_DOING})\b",
        # "with a broad smile", "full of joy", "in tears"; "he frowns".
        rf"\b(?P<phrase>(?:with|in|full of|showing|shows) (?:(?:an?|his|her|their) )?(?:(?!no\b)[a-z]+ )?{_EMOTION_NOUN})\b{_ENDS}",
        rf"\b(?P<phrase>{_DOES}(?: [a-z]+ly)?)\b{_ENDS}",
    )
)
