"""Kinds of events in town and on the way."""

from .kind import kind

MEET = kind(
    "meet",
    "what=activities place=places day=day time=time",
    company=True,
    opening="""
    Do you want to {what} {day}, {b}?
    {b}, shall we {what} {day}?
    I would like to {what} {day}. Are you free, {b}?
    Let's {what} {day}! What do you think, {b}?
    * Have you got time {day}, {b}? We could {what}.
    * {b}, are you in the mood to {what} {day}?
    """,
    reply="""
    Good idea! Where do we meet? | {place.at}. Can you be there {time}?
    Yes, I have time. When and where? | {time}, {place.at}.
    I'd love to. How about {time}? | Fine, let's meet {place.at}.
    Sure! Shall we meet {place.at}? | Yes, {time} if that suits you.
    * Gladly. What place and time? | {place.at} {time}.
    * Why not! {place.at}? | All right, I will wait for you there {time}.
    """,
    closing="""
    Perfect, see you there!
    That works for me.
    Great, I will be there.
    * Agreed. See you!
    * Wonderful, that is close to my house.
    """,
    summary="""
    {a} and {b} will {what} {day}. They will meet {place.at} {time}.
    {a} wants to {what} with {b} {day}. They will meet {time} {place.at}.
    {a} and {b} are meeting {place.at} {day} {time} to {what}.
    * {a} and {b} are going to {what} {day}. They meet {place.at} {time}.
    * {a} and {b} want to {what} {day}. They are meeting {place.at} {time}.
    """,
    recount="""
    {a} <ask> {b.o} to {what} {day}. {both.they} <+agree> to meet {place.at} {time}.
    {both} <+decide> to {what} {day}, and {both.they} <+choose> to meet {place.at} {time}.
    {both} <+arrange> to see each other {day} {place.at}. {both.they} <+plan> to {what} from there {time}.
    {b} <like> {a.s} idea to {what} {day}. {both.they} <+want> to meet {time} {place.at}.
    """,
)

CANCEL = kind(
    "cancel",
    "what=appointments why=a:cancel_why day=day day2=later",
    opening="""
    I have to cancel {what} {day}, {b}. {why}.
    Sorry, {b}, I can't make it to {what} {day}. {why}.
    Bad news, {b}. {why}, so {what} {day} won't work.
    {b}, I am afraid I will miss {what} {day}. {why}.
    * About {what} {day}, {b}: I can't come. {why}.
    * {why}, {b}. We must call off {what} {day}.
    """,
    reply="""
    What a pity! Is {day2.bare} better? | Yes, that is fine.
    No problem. Could we do it {day2}? | Good, let's do that.
    I understand. Do you have time {day2}? | Yes, I do.
    * That's all right. Then {day2.bare} instead? | That would be perfect.
    * Oh no. Would {day2.bare} suit you? | It would, thanks.
    """,
    closing="""
    All right, I will write it down.
    Then it is settled.
    Great, take care until then.
    * I'll change it in my calendar.
    * Good. All the best!
    """,
    summary="""
    {a} cancels {what} {day} because {why}. {a} and {b} will do it {day2} instead.
    {a} can't make it to {what} {day} because {why}. {b} suggests {day2} instead.
    {a} has to cancel {what} {day} because {why}. They move it to {day2.bare}.
    * {a} has to miss {what} {day} because {why}. {a} and {b} will do it {day2}.
    * {a} is cancelling {what} {day} because {why}. {b} and {a} move it to {day2.bare} instead.
    """,
    recount="""
    {a} <call> off {what} {day}, because {why}. {b} <propose> {day2.bare} and {a} <accept>.
    {why}, so {a} <have> to put off {what}. {both} <+agree> on {day2.bare} instead of {day.bare}.
    {a} <tell> {b.o} that {a.he} <can> not come to {what} {day}, since {why}. {both.they} <+choose> {day2.bare} instead.
    """,
)

TRIP = kind(
    "trip",
    "town=towns how=transport why=a:trip_why day=day time=time",
    opening="""
    I am travelling to {town} {day} {why}.
    {b}, I am going to {town} {day}! I go there {why}.
    Did I tell you, {b}? {day} I am off to {town} {why}.
    * {b}, {day} I will be in {town} {why}.
    * My bag is packed, {b}. I go to {town} {day} {why}.
    """,
    reply="""
    How nice! How will you get there? | I go {how}. I leave {time}.
    Are you flying? | I travel {how}. I leave {time}.
    Oh, {town} is lovely. When do you leave? | {time}, {how}.
    * Lucky you! How do you travel? | {how}, and I start {time}.
    * I have never been there. How far is it? | Not far {how}. I leave {time}.
    """,
    closing="""
    Have a good trip!
    Send me a postcard!
    Enjoy it and take many pictures.
    * Safe journey!
    * Tell me all about it when you are back.
    """,
    summary="""
    {a} is going to {town} {day} {why}. {a.he} will travel {how} and leave {time}.
    {a} is travelling to {town} {how} {day} {why}. {a.he} leaves {time}.
    {a} tells {b} that {a.he} is going to {town} {day} {why}. {a.he} goes {how} {time}.
    * {a} will go to {town} {day} {why}. {a.he} leaves {time} and travels {how}.
    * {a} will travel to {town} {how} {day} {why}. {a.he} will leave {time}.
    """,
    recount="""
    {a} <tell> {b.o} about the trip to {town}. {a.he} <plan> to go there {how} {day} {time} {why}.
    {a} <set> off for {town} {day} {why}. {a.he} <travel> {how} and <leave> {time}.
    {b} <hear> that {a} <want> to visit {town} {day} {why}. The journey {how} <start> {time}.
    """,
)

LIFT = kind(
    "lift",
    "place=places why=a:lift_why day=day time=time corner=streets",
    opening="""
    Could you drive me to {place} {day}, {b}? {why}.
    {b}, can you take me to {place} {day}? {why}.
    Are you driving to {place} {day}, {b}? {why}, so I need a lift.
    * I need to be at {place} {day}, {b}, but {why}. Have you got a seat for me?
    * Is there room in your car {day}, {b}? I must get to {place} and {why}.
    """,
    reply="""
    Sure, I will pick you up {time}. Where are you then? | In {corner}.
    Yes, of course. Where shall I stop {time}? | In {corner}, please.
    No problem. Be ready {time}! | Thank you! I will wait in {corner}.
    * I can take you {time}. From where? | From {corner}.
    * Happy to help. I start {time}. Where do you stand? | At the end of {corner}.
    """,
    closing="""
    Fine, I know where that is.
    Good. It is on my way.
    Then don't be late!
    * All right, I will find you.
    * Easy, I pass there anyway.
    """,
    summary="""
    {b} will drive {a} to {place} {day} because {why}. {b} will pick {a.him} up in {corner} {time}.
    {a} needs a lift to {place} {day} because {why}. {b} will pick {a.him} up {time}.
    {b} will take {a} to {place} {day} because {why}. {a} will wait in {corner} {time}.
    * {a} needs a lift to {place} {day} because {why}. {b} will meet {a.him} in {corner} {time}.
    * {b} will give {a} a lift to {place} {day} because {why}. {b} will come {time}.
    """,
    recount="""
    {a} <ask> {b.o} for a lift to {place} {day}, since {why}. {b} <agree> to come to {corner} {time}.
    {b} <offer> to drive {a.o} to {place} {day} because {why}. {a} <have> to be in {corner} {time}.
    {a} <want> to get to {place} {day}, but {why}. {b} <promise> to fetch {a.him} in {corner} {time}.
    """,
)

TICKETS = kind(
    "tickets",
    "show=shows place=places day=day price=fee",
    opening="""
    I have two tickets for {show} {day}. Are you interested, {b}?
    {b}, would you go to {show} with me {day}? I have a spare ticket.
    Do you like {show}, {b}? I got two tickets for {day.bare}.
    * My sister can't go to {show} {day}. Do you want her ticket, {b}?
    * There is a free seat beside me for {show} {day}, {b}!
    """,
    reply="""
    Yes! What do I owe you? | {price}. Let's meet {place.at} before it starts.
    I'd love to go. How much is it? | Just {price}. We can meet {place.at}.
    Fantastic! Where do we meet? | {place.at}. It costs {price}.
    * That would be great. What does it cost? | {price}. I will be {place.at}.
    * Sure! And the price? | {price}. I wait for you {place.at}.
    """,
    closing="""
    Good, I will bring the money.
    I am so excited!
    Thank you for asking me.
    * That is not expensive at all.
    * Super, I have always wanted to see that.
    """,
    summary="""
    {a} and {b} are going to {show} {day}. {b} pays {price} for the ticket.
    {a} has two tickets for {show} {day}. {b} will go with {a.him} and meet {a.him} {place.at}.
    {b} will go to {show} with {a} {day}. The ticket costs {price} and they will meet {place.at}.
    * {a} and {b} will go to {show} {day}. The ticket costs {price}.
    * {b} gets a ticket for {show} {day} from {a}. They will meet {place.at}.
    """,
    recount="""
    {a} <offer> {b.o} a ticket for {show} {day}. {b} <pay> {price} for it, and {both.they} <+decide> to meet {place.at}.
    {b} <buy> a ticket for {show} from {a.o} for {price}. {both} <+want> to meet {place.at} {day}.
    {both} <+plan> to see {show} together {day}. {a} <have> a spare ticket for {price}. {both.they} <+choose> to meet \
{place.at}.
    """,
)

LOST = kind(
    "lost",
    "thing=belongings place=places spot=spots day=day",
    opening="""
    I can't find my {thing}, {b}. I last had it {place.at}.
    {b}, have you seen my {thing}? I think I lost it {place.at}.
    Help, {b}! My {thing} is gone. Maybe I left it {place.at}.
    * I am looking for my {thing}, {b}. I had it with me {place.at}.
    * {b}, did I have my {thing} {place.at}? It has disappeared.
    """,
    reply="""
    Don't worry, it is here. I found it {spot}. | Thank goodness! I will come for it {day}.
    You left it at my place! It was {spot}. | What a relief! Can I get it {day}?
    I have it. It was {spot}. | Great! I can pick it up {day}.
    * No, you forgot it here. It is {spot}. | Oh, how silly of me. I'll fetch it {day}.
    * Yes, but then you visited me, and now it is {spot}. | Phew! May I come {day}?
    """,
    closing="""
    Sure, I will be at home.
    Yes, come any time.
    All right. Look after it better!
    * Of course, just ring the bell.
    * Do that. I'll make us some coffee.
    """,
    summary="""
    {a} can't find {a.his} {thing}. {b} found it {spot} and {a} will pick it up {day}.
    {a} has lost {a.his} {thing}. {b} found it {spot}.
    {b} found {a.s} {thing} {spot}. {a} will come for it {day}.
    * {a} is looking for {a.his} {thing}. {b} found it {spot} and {a} will come for it {day}.
    * {a} lost {a.his} {thing}, but {b} found it {spot}. {a} will pick it up {day}.
    """,
    recount="""
    {a} <miss> {a.his} {thing} and <think> that it <=be> still {place.at}. {b} <know> that it <=be> {spot}, so {a} \
<want> to fetch it {day}.
    {b} <find> {a.s} {thing} {spot}. {a} <believe> it to be {place.at} and <be> glad. {a.he} <plan> to get it {day}.
    {a} <look> for {a.his} {thing} {place.at}, but it <=be> {spot}. {b} <keep> it for {a.him} until {day.bare}.
    """,
)

KINDS = (MEET, CANCEL, TRIP, LIFT, TICKETS, LOST)
