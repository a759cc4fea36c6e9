"""The vocabulary of the sample world, in named pools.

Every fourth word of a pool is *held out*: the labelled training rows never show it, the validation and test
rows show nothing else (of days, times and amounts all show all). Plain text uses all of them. A word in two
pools is held out from both or from neither.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

Part = Literal["all", "seen", "held"]
HELD_EVERY = 4


def _words(text: str) -> tuple[str, ...]:
    return tuple(" ".join(item.split()) for item in text.split(",") if item.strip())


FEMALE = _words("""
Anna, Maria, Sofia, Emma, Laura, Nina, Julia, Clara, Eva, Lucy, Helen, Alice, Sara, Ruth, Grace, Nora, Lena, Mia,
Olivia, Ella, Amy, Kate, Jane, Rosa, Irene, Paula, Vera, Carla, Diana, Fiona, Gina, Hanna, Iris, Judy, Karen,
Linda, Megan, Naomi, Petra, Rachel, Sandra, Tina, Ursula, Wendy, Yvonne, Zoe, Amelia, Bella, Celia, Daisy, Edith,
Frida, Greta, Hazel, Ingrid, Jasmine, Kira, Lily, Martha, Nadia, Olga, Pia, Rita, Silvia, Tamara, Violet, Yasmin,
Amina, Bianca, Chloe, Dora, Elena, Flora, Holly, Isabel, Joan, Leila, Mona, Priya, Susan
""")
MALE = _words("""
Tom, Ben, Peter, Paul, Mark, David, Simon, Adam, Jack, Oscar, Leo, Max, Felix, Hugo, Ivan, Karl, Luke, Martin,
Nick, Oliver, Philip, Robert, Sam, Victor, Ted, Alan, Brian, Carlos, Daniel, Eric, Frank, George, Henry, Ian,
James, Kevin, Liam, Mike, Nathan, Owen, Patrick, Ralph, Steve, Tim, Walter, Andrew, Bruno, Colin, Dylan, Edward,
Fred, Gavin, Harry, Isaac, Jonas, Ken, Louis, Marco, Neil, Omar, Pedro, Ray, Stefan, Theo, Vincent, Albert, Boris,
Chris, Diego, Emil, Finn, Glen, Hans, Jacob, Keith, Lars, Mateo, Noah, Rashid, Yusuf
""")

# "at the station" is the place as a whereabouts; what follows the first word is its name
PLACES = _words("""
at the station, in the park, at the library, at the cinema, at the museum, at the market, in the town hall,
at the swimming pool, at the airport, at the harbour, at the gym, at the bakery, at the stadium, at the theatre,
at the school gate, in the old church, at the bus stop, at the zoo, at the garden centre, at the post office,
at the bank, at the tennis club, at the bowling hall, in the music hall, at the town bridge,
at the ice rink, at the city gate, at the toy shop, at the big oak, at the tower, at the playground, at the taxi stand,
at the lake, on the beach, at the fountain, in the main square, at the hospital, at the art school,
at the sports hall, in the rose garden
""")
ROOMS = _words("""
in the Green Cafe, at the Red Lion, in the Blue Door, at the River Grill, in the Corner Bar, at the Sun Hotel,
in the Book Nook, at the Golden Fish, in the Tea House, at the Palm Tree, in the Garden Room, in the Old Mill,
at the White Horse, at the Star Cafe, in the Lemon Tree, in the Reading Room
""")
TOWNS = _words("""
Rome, Oslo, Lisbon, Vienna, Paris, Dublin, Prague, Madrid, Berlin, Athens, Geneva, Milan, Boston, Chicago, Denver,
Toronto, Sydney, Cairo, Delhi, Tokyo, Leeds, York, Bristol, Cardiff, Ashford, Millbrook, Northgate, Riverton,
Westfield, Oakham, Marwick, Lindow, Stonehill, Eastport, Ferndale, Brookside
""")
STREETS = _words("""
Mill Street, Park Lane, Church Road, Bridge Street, Station Road, Garden Street, Hill Road, Lake Street,
King Street, Green Lane, Market Street, School Lane, River Road, Castle Street, Oak Road, Rose Lane
""")

TOOLS = _words("""
drill, ladder, tent, bike, suitcase, sewing machine, projector, hammer, sleeping bag, camera, lawn mower, van,
guitar, saw, toolbox, backpack, trailer, canoe, barbecue, cake tin, paint roller, spade, rake, bike pump,
folding table, extension cable, printer, tripod
""")
MACHINES = _words("""
washing machine, fridge, dishwasher, oven, heater, laptop, printer, vacuum cleaner, coffee machine, shower, radio,
television, doorbell, freezer, boiler, garage door, kitchen tap, computer, old clock, toaster
""")
BELONGINGS = _words("""
wallet, phone, umbrella, scarf, passport, watch, bag, ring, notebook, hat, key, jacket, tablet, earring, charger,
student card, library book, necklace, lunch box, belt, bracelet, credit card, bus ticket, calculator
""")
PURCHASES = _words("""
lamp, sofa, dress, desk, jacket, keyboard, carpet, mirror, kettle, raincoat, chair, blender, shirt, pillow,
tablet, bookshelf, winter coat, violin, skateboard, teapot, blanket, helmet, armchair, frying pan, microscope,
suit, monitor, speaker
""")
PRESENTS = _words("""
book, vase, board game, cookbook, poster, silk tie, puzzle, plant, teddy bear, watch, perfume, football,
fountain pen, picture frame, box of chocolates, basket of fruit, kite, candle, mug, photo album, music box,
telescope, cushion, bunch of flowers
""")
SALE_ITEMS = _words("""
piano, bike, car, sideboard, wardrobe, bed, motorbike, raft, mattress, tent, bookcase, camera, treadmill, surfboard,
pram, rug, drum kit, scooter, computer, garden bench
""")
PETS = _words("cat, dog, rabbit, parrot, hamster, tortoise, puppy, kitten, guinea pig, canary, goldfish, pony")
DISHES = _words("""
soup, pizza, curry, lasagne, pancakes, roast chicken, fish pie, risotto, noodles, tacos, paella, dumplings,
vegetable stew, spaghetti, meatballs, mushroom pie, chilli, fried rice, goulash, burgers
""")
EXTRAS = _words("""
a salad, some bread, a cake, some wine, a bottle of juice, some cheese, ice cream, some fruit, lemonade, olives,
a dessert, fresh bread, some beer, a pie, cookies, sparkling water
""")
REMEDIES = _words("""
some soup, some tea, the medicine, fresh fruit, some honey, orange juice, cough drops, a warm meal, some ginger,
a few lemons, vitamins, chicken broth
""")
REWARDS = _words("""
a cake, a bottle of wine, a box of chocolates, a good lunch, some cheese, a dozen eggs, a pot of honey, some jam,
a cinema ticket, a big dinner, a bag of apples, a jar of olives
""")
ILLNESSES = _words("""
a cold, the flu, a fever, a sore throat, a headache, a stomach ache, a bad cough, a toothache, back pain,
an ear infection, a migraine, a swollen ankle
""")
DUTIES = _words("""
to work, to the meeting, to training, to class, to the rehearsal, to the office, to the party, to the wedding,
to choir practice, to the workshop, to the match, to the seminar
""")
SUBJECTS = _words("""
maths, biology, history, chemistry, French, physics, geography, music theory, statistics, Spanish, law, Latin,
economics, German, art history, computer science
""")
TRANSPORT = _words("by train, by bus, by car, by plane, by ferry, by night train, by coach, by taxi")
ACTIVITIES = _words("""
have coffee, play chess, go for a walk, have lunch, go running, play tennis, have dinner, do some drawing,
watch the match, have brunch, have a drink, see the exhibition, play cards, practise our Spanish, have tea,
feed the ducks, eat ice cream, listen to the band, go swimming, play table tennis
""")
APPOINTMENTS = _words("""
dinner, the guitar lesson, lunch, the school play, the tennis match, the dance class, breakfast, the driving lesson,
the picnic, the boat trip, the yoga class, the interview, the hike, the film night, the piano lesson, the barbecue
""")
SHOWS = _words("""
the jazz concert, the circus, the opera, the football game, the ballet, the rock festival, the magic show,
the hockey game, the new musical, the poetry evening, the piano recital, the comedy night
""")
FILMS = _words("""
The Last Island, Silver Moon, A Quiet House, The Lost Train, Seven Winters, The Glass Bridge, Night Market,
The Red Kite, Cold Harbour, My Uncle's Boat, The Clockmaker, Summer Rain, Two Brothers, The Blue Door Mystery,
Paper Planes, The Long Way Home
""")
JOBS = _words("""
nurse at a hospital, teacher at a primary school, cook at a hotel, driver at a bus company, engineer at a car factory,
baker at a bakery, lawyer at a law firm, gardener at a castle, painter at a theatre, doctor at a clinic,
waiter at a restaurant, librarian at a university, plumber at a building firm, reporter at a newspaper,
dentist at a health centre, pilot at an airline, carpenter at a workshop, designer at a fashion house,
vet at an animal hospital, guide at a museum, accountant at a bank, electrician at a power station,
singer at an opera house, translator at a court, farmer at a vineyard, musician at a music school,
programmer at a games studio, editor at a radio station
""")
SHOPS = _words("""
at the market, at a flea market, at the new mall, in a small shop, online, at the department store, in the sale,
at the corner shop, at an outlet, in a second-hand shop, at an auction, at the craft fair
""")
SPOTS = _words("""
under the sofa, behind the door, on the kitchen table, in the car, on the back seat, in the hall, next to the sink,
under a pile of books, on the shelf, in a drawer, on the windowsill, behind the counter
""")
HOBBIES = _words("""
chess, painting, running, cooking, fishing, reading, dancing, sailing, cycling, singing, hiking, pottery
""")

WEEKDAYS = _words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
MONTHS = _words("""
January, February, March, April, May, June, July, August, September, October, November, December
""")

# Clauses about one person: see grammar for the marks.
BORROW_WHY = _words("""
[I] <need> it for work, [I] <need> it for a school project, [I] <be> helping [my] mother,
[I] <want> to surprise [my] children, [I] <can> not find [my] own, [I] <have> promised to help a friend,
new ones <+be> too expensive, [my] own one disappeared, [I] <want> to try one before buying,
[I] <be> going away for the weekend, [my] neighbour <=need> one, [my] own <=be> broken
""")
CANCEL_WHY = _words("""
[my] car broke down, [I] <have> to work late, [my] son <=be> ill, [I] <have> to see a doctor,
[my] train <=be> cancelled, [I] <have> a bad cold, [my] parents <+be> visiting, [I] <must> finish a report,
[my] babysitter <=can> not come, [I] <have> to go to a funeral, [my] flat <=be> flooded, [I] hurt [my] knee
""")
MOVE_WHY = _words("""
the rent <=be> too high, [I] <want> to live near [my] work, [I] <need> more space, the house <=be> too noisy,
[I] <want> a garden, [I] <have> found a new job there, the old flat <=be> too dark,
[I] <want> to be closer to [my] family
""")
TRIP_WHY = _words("""
to visit [my] sister, for a conference, for a wedding, to see a friend, for a short holiday, to buy a boat,
for a job interview, to visit [my] grandmother, to run a marathon, for a language course, to see the sights,
for [my] cousin's birthday
""")
SELL_WHY = _words("""
[I] never <use> it, [I] <need> the space, [I] <be> moving abroad, [I] <want> a new one, [I] <need> the money,
[I] got another one, [my] flat <=be> too small for it, [my] family <=do> not like it
""")
FILM_WHY = _words("""
the story <=be> clever, the actors <+be> wonderful, the music <=be> beautiful, it <=be> very funny,
the ending <=be> a surprise, the pictures <+be> stunning, it <=be> really exciting, the jokes <+be> good
""")
LIFT_WHY = _words("""
[my] car <=be> at the garage, the buses <+be> on strike, [I] <have> a heavy suitcase, [I] hurt [my] foot,
there <=be> no bus so early, [my] engine <=do> not start, [I] <have> a lot to carry, [I] missed the last bus
""")

_POOLS = {name.lower(): value for name, value in list(globals().items()) if name.isupper() and type(value) is tuple}
_HELD: dict[str, bool] = {}
for _pool in _POOLS.values():
    for _i, _word in enumerate(_pool):
        _HELD.setdefault(_word, _i % HELD_EVERY == HELD_EVERY - 1)


@cache
def pool(name: str, part: Part = "all") -> tuple[str, ...]:
    """The words of one pool, all of them or only the seen or held-out ones."""
    words = _POOLS[name]
    return words if part == "all" else tuple(word for word in words if _HELD[word] == (part == "held"))


def names_of_pools() -> list[str]:
    """The names of all pools."""
    return list(_POOLS)
