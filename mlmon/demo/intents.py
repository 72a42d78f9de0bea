"""What the demo's customers write: templates of queries by intent, and the words in them.

They are written for the demo. Braces name a list of `WORDS`. The model was trained for banking; it has never
seen travel. Both are alike in length and in how they are written, so that what tells them apart is what they
say.
"""

from __future__ import annotations

__all__ = ["BANKING", "TRAVEL", "WORDS"]

#: Banking queries: what the model of the demo is trained on, and its usual traffic.
BANKING: dict[str, tuple[str, ...]] = {
    "card arrival": (
        "when will the new {card} card arrive in {city}?",
        "I ordered a {card} card {when} and it has not come yet",
        "can I track the {card} card that was posted to {city} {when}?",
    ),
    "card blocked": (
        "please block my {card} card, it was {trouble} {when}",
        "my {card} card was {trouble} at the {place} in {city}",
        "someone has {trouble} my {card} card, what should I do?",
    ),
    "card declined": (
        "my {card} card was declined at the {place} {when}",
        "why does the {place} in {city} not take my {card} card?",
        "a payment of {amount} by {card} card was refused {when}",
    ),
    "cash withdrawal": (
        "the cash machine in {city} gave me less than {amount}",
        "I took out {amount} {when} but my balance shows something else",
        "how much cash can I withdraw with a {card} card in {city}?",
    ),
    "pin": (
        "I forgot the PIN of my {card} card",
        "how do I change the PIN of a {card} card in {city}?",
        "the {place} says that the PIN of my {card} card is wrong since {when}",
    ),
    "transfer pending": (
        "my transfer of {amount} to {person} is still pending",
        "I sent {amount} to {city} {when} and it has not arrived",
        "how long does a transfer of {amount} to {city} take?",
    ),
    "transfer cancel": (
        "can I cancel a transfer of {amount} that I made {when}?",
        "I sent {amount} to the wrong account {when}",
        "please stop the transfer to {person} from {when}",
    ),
    "standing order": (
        "set up a standing order of {amount} to {person}",
        "how do I end the standing order for {person} from {when}?",
        "my standing order of {amount} was paid twice {when}",
    ),
    "direct debit": (
        "a direct debit of {amount} was taken by {company} {when}",
        "how do I cancel the direct debit for {company}?",
        "I do not recognise the direct debit of {amount} from {company}",
    ),
    "account details": (
        "how do I change the {detail} of my account?",
        "my {detail} in the app has been wrong since {when}",
        "I moved to {city} {when} and need to update my {detail}",
    ),
    "login": (
        "I cannot log in to my account since {when}",
        "the app asks for my {detail} again and again",
        "the app does not accept my {detail} on the new phone",
    ),
    "fees": (
        "why was I charged {amount} at the {place}?",
        "is there a fee for using the {card} card in {city}?",
        "there is a fee of {amount} from {when} that I do not know",
    ),
    "exchange rate": (
        "what is the exchange rate for {amount} in {city}?",
        "the exchange rate at the {place} was wrong {when}",
        "can I hold {amount} in two currencies in one account?",
    ),
    "savings": (
        "what interest do I get on savings of {amount}?",
        "move {amount} to my savings account {when}",
        "can {person} and I open a savings account together?",
    ),
    "loan": (
        "can I borrow {amount} to pay {company}?",
        "I want to repay my loan of {amount} early",
        "what happens to my loan when I move to {city}?",
    ),
    "mortgage": (
        "how large a mortgage can I get for a house in {city}?",
        "the mortgage payment of {amount} left my account twice {when}",
        "can {person} be added to the mortgage for our house in {city}?",
    ),
    "statement": (
        "send me the statement with the {amount} from {when}",
        "I need a bank statement for {company} in {city}",
        "the statement shows {amount} to {company} that I never paid",
    ),
    "close account": (
        "close my account and send the {amount} to my bank in {city}",
        "I want to close the account that I share with {person}",
        "why is my account still open, I asked to close it {when}",
    ),
}

#: Travel queries: what the model was never trained on.
TRAVEL: dict[str, tuple[str, ...]] = {
    "book flight": (
        "book a flight to {city} with {airline} for {person} and me",
        "is there a {seat} seat on the flight to {city} {day}?",
        "what does a return flight from {city} with {airline} cost {day}?",
    ),
    "delayed flight": (
        "my flight from {city} with {airline} was delayed {when}",
        "will the {airline} plane to {city} leave on time {day}?",
        "we missed our connection in {city} because of {weather}",
    ),
    "luggage": (
        "my {bag} did not arrive in {city} {when}",
        "how heavy may a {bag} be on {airline}?",
        "can I take a {bag} into the cabin on the flight to {city}?",
    ),
    "hotel": (
        "find a hotel near the {sight} in {city} for {day}",
        "does the hotel in {city} have a {room} with breakfast?",
        "our {room} at the hotel by the {sight} was cold and noisy",
    ),
    "visa": (
        "do I need a visa to visit {city} with {person}?",
        "my passport runs out soon, may I still fly to {city} {day}?",
        "which vaccinations are required for a tour of {city}?",
    ),
    "rental": (
        "rent a {vehicle} at the airport of {city} {day}",
        "may {person} drive the {vehicle} that we hired in {city}?",
        "the {vehicle} we rented near the {sight} has a flat tyre",
    ),
    "train": (
        "which train goes from the airport to the {sight} in {city}?",
        "reserve a {seat} seat on the night train to {city} {day}",
        "was the ferry to {city} cancelled because of {weather}?",
    ),
    "weather": (
        "will there be {weather} in {city} {day}?",
        "what should I pack for {weather} in {city}?",
        "is {city} worth a visit in spite of {weather}?",
    ),
    "sights": (
        "what is there to see around the {sight} in {city}?",
        "are there guided tours of the {sight} {day}?",
        "which restaurant near the {sight} has food for children?",
    ),
    "itinerary": (
        "plan a week in {city} with {person} and the children",
        "change the dates of our holiday in {city} to {day}",
        "cancel the {vehicle} and the {room} in {city} for {day}",
    ),
}

WORDS: dict[str, tuple[str, ...]] = {
    "card": ("debit", "credit", "virtual", "disposable", "business", "prepaid"),
    "trouble": ("stolen", "lost", "copied", "swallowed"),
    "place": ("supermarket", "petrol station", "restaurant", "bakery", "pharmacy", "railway station"),
    "city": ("Lisbon", "Warsaw", "Nairobi", "Osaka", "Toronto", "Helsinki", "Quito", "Dublin"),
    "amount": ("twenty pounds", "300 euros", "fifty dollars", "1500 yen", "80 francs", "a small sum"),
    "when": ("yesterday", "last week", "on Monday", "two days ago", "this morning", "last Friday"),
    "detail": ("address", "phone number", "family name", "email", "password"),
    "person": ("my mother", "my landlord", "Amina", "Mr Novak", "Keiko", "my brother"),
    "company": ("the gym", "the insurance", "the phone company", "the council", "the school"),
    "airline": ("Northwind", "Blue Heron", "Meridian Air", "Polar Wings"),
    "seat": ("window", "middle", "front", "quiet"),
    "day": ("tomorrow", "next week", "on Sunday", "in two days", "this evening", "next Friday"),
    "bag": ("suitcase", "rucksack", "guitar", "folding bicycle", "pram"),
    "sight": ("old harbour", "castle", "botanical garden", "museum of art", "cathedral", "beach"),
    "room": ("double room", "family room", "room with a balcony", "suite"),
    "vehicle": ("small car", "camper van", "motorbike", "bicycle", "minibus"),
    "weather": ("snow", "heavy rain", "fog", "a heat wave", "strong wind"),
}
