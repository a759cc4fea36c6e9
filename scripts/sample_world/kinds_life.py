"""Kinds of events that are news in somebody's life."""

from .kind import kind

BUY = kind(
    "buy",
    "thing=purchases shop=shops price=price day=day",
    opening="""
    I bought {thing.a} {shop.at}, {b}.
    Look, {b}, I have a new {thing}! I found it {shop.at}.
    {b}, I finally got {thing.a}. They had it {shop.at}.
    * Guess what I bought {shop.at}, {b}: {thing.a}!
    * My new {thing} is here, {b}. I got it {shop.at}.
    """,
    reply="""
    Nice! How much was it? | Only {price}. | I need one too. I will go there {day}.
    Was it expensive? | I paid {price}. | That is cheap! I want to get one {day}.
    What did it cost? | It was {price}. | Then I will buy the same one {day}.
    * Oh, what did you pay? | {price} in all. | Good price! {day} I will get one as well.
    * Tell me the price! | They took {price}. | I'll have a look there {day}.
    """,
    closing="""
    Do that, they have many.
    Good luck!
    You won't regret it.
    * Hurry, it is the last week.
    * I can come along.
    """,
    summary="""
    {a} bought {thing.a} {shop.at} for {price}. {b} wants to get one {day}.
    {a} has bought {thing.a} for {price} {shop.at}. {b} will go there {day} to buy one too.
    {a} paid {price} for {thing.a} {shop.at}. {b} wants to buy one too {day}.
    * {a} has a new {thing}, which {a.he} bought {shop.at} for {price}. {b} will get one {day}.
    * {a} got {thing.a} {shop.at} for {price}. {b} will buy one too {day}.
    """,
    recount="""
    {a} <buy> {thing.a} {shop.at} and <pay> {price} for it. {b} <like> it so much that {b.he} \
<plan> to get the same {day}.
    {a} <show> {b.o} {a.his} new {thing}. {a.he} <pay> {price} for it {shop.at}. {b} <want> to go there {day}.
    {b} <hear> about {a.s} {thing}, which <=cost> {price} {shop.at}, and <decide> to look for one {day}.
    """,
)

SICK = kind(
    "sick",
    "illness=illnesses duty=duties remedy=remedies day=day time=time",
    opening="""
    I have {illness}, {b}. I can't go {duty} {day}.
    {b}, I won't come {duty} {day}. I have {illness}.
    I feel terrible, {b}. It is {illness}, so I can't go {duty} {day}.
    * Don't wait for me, {b}. I have {illness} and can't come {duty} {day}.
    * I am in bed with {illness}, {b}. I will not make it {duty} {day}.
    """,
    reply="""
    Poor you! Shall I bring you {remedy}? | That would be lovely. Come {time}.
    Oh no, get well soon! I can bring {remedy}. | Thank you. Is {time.bare} all right?
    Stay in bed! Do you need {remedy}? | Yes, please. I am awake {time}.
    * I am sorry to hear that. I'll come by with {remedy}. | You are kind. Maybe {time}?
    * Rest well! {remedy} would help you. | Could you bring me that {time}?
    """,
    closing="""
    Of course. I will tell the others.
    Yes. Try to sleep now.
    Sure, see you later.
    * Certainly. Drink a lot!
    * I'll do that. Get better!
    """,
    summary="""
    {a} has {illness} and can't go {duty} {day}. {b} will bring {a.him} {remedy} {time}.
    {a} is not going {duty} {day} because {a.he} has {illness}. {b} will bring {remedy}.
    {a} can't go {duty} {day} because of {illness}. {b} will come {time} with {remedy}.
    * {a} can't come {duty} {day} because {a.he} has {illness}. {b} will bring {a.him} {remedy}.
    * {a} has {illness} and won't go {duty} {day}. {b} will bring {remedy} {time}.
    """,
    recount="""
    {a} <have> {illness} and <can> not go {duty} {day}. {b} <promise> to come {time} and to bring {a.him} {remedy}.
    {a} <stay> in bed with {illness} and <can> not come {duty} {day}. {b} <bring> {remedy} {time}.
    Because of {illness}, {a} <do> not go {duty} {day}. {b} <offer> {a.him} {remedy} and <say> that {b.he} <will> \
be there {time}.
    """,
)

BIRTHDAY = kind(
    "birthday",
    "gift=presents shop=shops price=fee day=day",
    opening="""
    It is {c.s} birthday {day}. What shall we give {c.him}, {b}?
    {b}, do you have a present for {c}? {c.his} birthday is {day}.
    {c} has {c.his} birthday {day}, {b}. Any ideas for a gift?
    * Don't forget {c}, {b}. {c.he} has a birthday {day}! What could we buy?
    * {b}, {day} is the birthday of {c}. Shall we get something together?
    """,
    reply="""
    How about {gift.a}? | Good idea! I saw one {shop.at} for {price}.
    {c.he} would like {gift.a}. | Yes! They have one {shop.at}. It costs {price}.
    Let's buy {gift.a}. | Fine. I can get it {shop.at} for {price}.
    * Maybe {gift.a}? | {c.he} will love it. There is one {shop.at}, {price}.
    * {c.he} wants {gift.a}, I think. | Then I will get it {shop.at}. The price is {price}.
    """,
    closing="""
    Perfect. I will pay half.
    All right. I'll write a card.
    Great, then that is done.
    * Good, I'll bake something too.
    * Wonderful, and I'll wrap it.
    """,
    summary="""
    {a} and {b} will give {c} {gift.a} for {c.his} birthday {day}. {a} will buy it {shop.at}.
    {a} and {b} want to give {c} {gift.a}. {c.s} birthday is {day}.
    {a} will buy {gift.a} {shop.at} for {c.s} birthday {day}.
    * {a} and {b} are giving {c} {gift.a} for {c.his} birthday {day}. {a} can get it {shop.at}.
    * {a} and {b} will buy {gift.a} for {c.s} birthday {day}.
    """,
    recount="""
    {both} <+need> a present for {c.o}, because {c.his} birthday <=be> {day}. {both.they} <+choose> {gift.a}, which \
<=cost> {price} {shop.at}.
    {b} <suggest> {gift.a} for {c.s} birthday {day}. {a} <agree> to buy it {shop.at} for {price}.
    {both} <+talk> about {c.s} birthday {day}. {a} <know> where to get {gift.a}: {shop.at}, for {price}.
    """,
)

JOB = kind(
    "job",
    "job=jobs day=day place=rooms",
    company=True,
    opening="""
    I got the job, {b}! I will work as {job.a} {job.at}. I start {day}.
    {b}, I have a new job as {job.a} {job.at}! My first day is {day.bare}.
    Good news, {b}! They want me as {job.a} {job.at} from {day.bare}.
    * They took me, {b}! {day} I start as {job.a} {job.at}.
    * {b}, I am going to be {job.a} {job.at}. It begins {day}.
    """,
    reply="""
    Congratulations! Let's celebrate {place.at}. | Yes, the drinks are on me!
    That is fantastic! Shall we have a drink {place.at}? | Good idea, I will pay.
    I am so happy for you! Let me take you out {place.at}. | That is very kind!
    * Well done! We should have a party {place.at}. | I'd love that.
    * Wow, great! We must drink to that {place.at}. | Yes, let's!
    """,
    closing="""
    I will tell the others.
    You really deserve it.
    I knew that you could do it!
    * I never had a doubt.
    * Your parents must be proud.
    """,
    summary="""
    {a} got a job as {job.a} {job.at} and starts {day}. {a} and {b} will celebrate {place.at}.
    {a} will start a new job as {job.a} {job.at} {day}. {b} wants to celebrate {place.at}.
    {a} has a new job as {job.a} {job.at} from {day.bare}. {b} and {a} will celebrate it {place.at}.
    * {a} starts as {job.a} {job.at} {day}. {a} and {b} want to celebrate it {place.at}.
    * {a} has got a new job as {job.a} {job.at} and starts {day}. {b} will celebrate with {a.him} {place.at}.
    """,
    recount="""
    {a} <find> work as {job.a} {job.at} and <tell> {b.o} that the first day <=be> {day.bare}. {both} <+plan> to \
celebrate {place.at}.
    {b} <be> happy to hear that {a} <become> {job.a} {job.at} {day}. {both.they} <+want> to drink to it {place.at}.
    {a} <get> a place as {job.a} {job.at}, to start {day}. {b} <invite> {a.him} to a party {place.at}.
    """,
)

EXAM = kind(
    "exam",
    "subject=subjects day2=day day=later place=rooms time=time",
    company=True,
    opening="""
    I have an exam in {subject} {day}, and I understand nothing. Can you help me, {b}?
    {b}, you are good at {subject}. Could we study together? My exam is {day}.
    I am worried about my {subject} exam {day}, {b}. Can you help me?
    * {b}, {day} they test us in {subject}, and I need help.
    * My {subject} exam is {day}, {b}. Would you explain a few things to me?
    """,
    reply="""
    Sure. Let's study {day2} {place.at}. | Thank you! Is it fine {time}?
    No problem. We can meet {place.at} {day2}. | You are the best! Shall I come {time}?
    I can help you {day2}. What about {time.bare}? | Perfect. I will wait {place.at}.
    * I'd be glad to. Do you know the tables {place.at}? {day2} I am there. | Good, I'll come {time}.
    * Of course. Come and find me {day2} {place.at}. | Thanks a lot. Maybe {time}?
    """,
    closing="""
    Good. Bring your notes.
    Fine. Don't be afraid, you will pass.
    Yes, that works.
    * All right. It isn't that hard.
    * Great, and bring the book too.
    """,
    summary="""
    {a} has an exam in {subject} {day}. {b} will study with {a.him} {place.at} {day2}.
    {b} will help {a} study for the {subject} exam {day}. They will meet {place.at} {day2} {time}.
    {a} has an exam in {subject} {day}. {a} and {b} will study {place.at} {day2} {time}.
    * {a} has a {subject} exam {day}. {b} will help {a.him} {place.at} {day2}.
    * {b} will help {a} with {subject} because {a.he} has an exam {day}. They will meet {day2} {place.at}.
    """,
    recount="""
    {a} <worry> about the {subject} exam {day}. {b} <offer> to study with {a.him} {day2} {place.at} {time}.
    {b} <agree> to explain {subject} to {a.o} before the exam {day}. {both} <+want> to meet {day2} {time} {place.at}.
    {both} <+arrange> to learn {subject} together {place.at}: {day2} {time}. {a.s} exam <=be> {day}.
    """,
)

FILM = kind(
    "film",
    "film=films why=a:film_why place=places day=day time=time",
    company=True,
    opening="""
    I saw {film} yesterday, {b}. {why}!
    {b}, you have to see {film}. {why}.
    Have you seen {film}, {b}? {why}.
    * Yesterday I watched {film}, {b}. I liked it because {why}.
    * {b}, {film} is a film for you. {why}.
    """,
    reply="""
    I want to see it too. Is it still on? | Yes, {day} {time}. I would watch it again.
    When can I see it? | They play it again {day} {time}. I will come along.
    Really? Then I must watch it. | They show it {day} {time}. Let's go together!
    * You make me curious. When is it on? | {day} {time}. I could go a second time.
    * Everybody talks about it. Do they still play it? | {day} {time}. I'll join you.
    """,
    closing="""
    Great, let's meet {place.at} before.
    Good. I will wait for you {place.at}.
    Then we can meet {place.at} first.
    * Nice. Meet me {place.at}!
    * Deal. I'll be {place.at} a bit earlier.
    """,
    summary="""
    {a} likes {film} because {why}. {a} and {b} will see it {day} {time}.
    {a} tells {b} to see {film} because {why}. They will watch it {day} {time}.
    {a} and {b} will see {film} {day} {time}. They will meet {place.at}.
    * {a} liked {film} because {why}. {a} and {b} will watch it {day} {time}.
    * {a} and {b} are going to see {film} {day} {time}. They are meeting {place.at}.
    """,
    recount="""
    {a} <praise> {film}, because {why}. {both} <+decide> to watch it together {day} {time} and to meet {place.at}.
    {b} <want> to see {film} after {a} <say> that {why}. {both.they} <+agree> to meet {place.at} and to go {day} {time}.
    {a} <enjoy> {film} so much, since {why}, that {a.he} <plan> to see it again with {b.o} {day} {time}. {both.they} \
<+arrange> to meet {place.at}.
    """,
)

KINDS = (BUY, SICK, BIRTHDAY, JOB, EXAM, FILM)
