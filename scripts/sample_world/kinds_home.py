"""Kinds of events at home and among neighbours."""

from .kind import kind

BORROW = kind(
    "borrow",
    "thing=tools why=a:borrow_why day=day",
    opening="""
    Could I borrow your {thing}, {b}? {why}.
    {b}, can you lend me your {thing}? {why}.
    Do you still have that {thing}, {b}? {why}.
    {b}, I am looking for {thing.a}. {why}. Could you lend me yours?
    * I need {thing.a}, {b}. {why}. May I take yours?
    * Would you lend me your {thing} for a few days? {why}.
    """,
    reply="""
    Sure, but I need it back {day}.
    Of course. Please bring it back {day}.
    No problem, just return it {day}.
    Yes, you can have it. I will need it again {day}.
    * Take it, but I want it again {day}.
    * You can keep it until {day.bare}.
    """,
    closing="""
    Great, I will. Thank you!
    I promise. Thanks a lot! | You're welcome.
    Perfect, that is enough time for me.
    * That is very kind, {b}.
    * Deal! | It is in the garage, just take it.
    """,
    summary="""
    {a} borrows {b.s} {thing} because {why}. {b} wants it back {day}.
    {b} lends {a} {b.his} {thing} because {why}. {a} has to return it {day}.
    {a} wants to borrow {b.s} {thing} because {why}. {b} needs it back {day}.
    * {a} asks to borrow {b.s} {thing} because {why}. {b} needs it back {day}.
    * {a} will borrow {b.s} {thing} because {why}. {a.he} has to return it {day}.
    """,
    recount="""
    {a} <ask> {b.o} for {b.his} {thing} because {why}. {b} <agree> and only <want> to have it back {day}.
    {a} <borrow> {b.s} {thing}, since {why}. {a.he} <promise> to bring it back {day}.
    {b} <lend> {a.o} {b.his} {thing} until {day.bare}. {a} <need> it because {why}.
    {a} <get> the {thing} from {b.o} because {why}, and <have> to return it {day}.
    """,
)

COOK = kind(
    "cook",
    "dish=dishes extra=extras day=day time=time",
    company=True,
    opening="""
    I am making {dish} {day}. Would you like to come over, {b}?
    {b}, do you want to eat with us {day}? I am cooking {dish}.
    Come to my place {day}, {b}! There will be {dish}.
    We are having {dish} {day}. Are you hungry, {b}?
    * How about dinner here {day}? I want to make {dish}.
    * You must try my {dish}, {b}. Are you free {day}?
    """,
    reply="""
    I love {dish}! I will bring {extra}. When should I come? | {time}.
    Yes, please! Shall I bring {extra}? | Good idea. Come {time}.
    With pleasure. I can bring {extra}. What time? | {time}, if you can.
    * That sounds delicious. I'll get {extra}. | Great, we eat {time}.
    * Count me in. {extra} from me? | Yes, please. Be here {time}.
    """,
    closing="""
    Perfect, see you then!
    Good, I am looking forward to it.
    I will be there.
    * I can't wait!
    * Fine, I won't be late.
    """,
    summary="""
    {a} invites {b} for {dish} {day}. {b} will come {time} and bring {extra}.
    {a} is cooking {dish} {day}. {b} will bring {extra} and come {time}.
    {b} will eat {dish} at {a.s} place {day} {time}. {b} will bring {extra}.
    * {a} invites {b} to eat {dish} {day}. {b} will bring {extra} {time}.
    * {a} will cook {dish} {day}. {b} is coming {time} with {extra}.
    """,
    recount="""
    {a} <ask> {b.o} to come over {day}, because {a.he} <want> to make {dish}. {b} <say> yes, <offer> to bring {extra} \
and <plan> to be there {time}.
    {a} <invite> {b.o} to {a.his} place for {dish} {day}. {b} <promise> to bring {extra} and to arrive {time}.
    {b} <accept> {a.s} invitation to eat {dish} {day} {time}, and {b.he} <decide> to buy {extra} for it.
    {both} <+agree> to eat {dish} together {day} {time}. {b} <take> care of {extra}.
    """,
)

REPAIR = kind(
    "repair",
    "thing=machines day=day time=time pay=rewards",
    opening="""
    My {thing} is broken. Can you have a look at it, {b}?
    {b}, my {thing} has stopped working. Could you help me?
    You are good with machines, {b}. My {thing} makes a strange noise.
    Do you know how to repair {thing.a}, {b}? Mine does not work.
    * There is something wrong with my {thing}, {b}. Can you fix it?
    * Help, {b}! My {thing} won't turn on.
    """,
    reply="""
    I can come {day} {time}. | Great, you will get {pay} for it.
    I will look at it {day}. Is it all right {time}? | Yes. I will give you {pay} as a thank you.
    Sure, I could be there {day} {time}. | Fine, and you will get {pay} from me.
    * Let me see it {day}. I am free {time}. | Thank you! I will have {pay} for you.
    * I have time {day} {time}. | Wonderful. I owe you {pay} then.
    """,
    closing="""
    That is not necessary, but thank you!
    Nice! Don't touch it until then.
    You don't have to, but I won't say no.
    * Deal!
    * Then I will certainly come.
    """,
    summary="""
    {a.s} {thing} is broken. {b} will come {day} {time} to repair it.
    {b} will repair {a.s} {thing} {day} {time}. {a} will give {b.him} {pay}.
    {a.s} {thing} does not work. {b} will fix it {day} {time}.
    * {a} needs help because {a.his} {thing} is broken. {b} will come {day} {time}.
    * {b} will fix {a.s} {thing} {day} {time} and get {pay}.
    """,
    recount="""
    {a.s} {thing} <=be> broken, so {a.he} <call> {b.o}. {b} <offer> to come {day} {time}, and {a} <promise> {b.him} \
{pay}.
    {a} <ask> {b.o} to look at the broken {thing}. {b} <agree> to repair it {day} {time} in return for {pay}.
    {b} <find> time {day} {time} to fix {a.s} {thing}. {a} <want> to thank {b.him} with {pay}.
    """,
)

PET_CARE = kind(
    "pet_care",
    "pet=pets town=towns day=day day2=later",
    opening="""
    I am going to {town} {day}. Could you look after my {pet}, {b}?
    {b}, can you take care of my {pet}? I leave for {town} {day}.
    Who could feed my {pet} while I am in {town}? I go {day}.
    I have to go to {town} {day}, and nobody is here for my {pet}.
    * Would you mind my {pet}, {b}? {day} I travel to {town}.
    * {b}, do you like my {pet}? I need a sitter from {day.bare}, because I will be in {town}.
    """,
    reply="""
    Of course I can. When do you come back? | {day2}.
    Sure, I like your {pet}. How long are you away? | I will be home again {day2}.
    Yes, until when? | Until {day2.bare}.
    * Gladly! When are you back? | I return {day2}.
    * I would love to. Till when? | {day2} I am here again.
    """,
    closing="""
    All right, bring the food and the key.
    Fine. Enjoy the trip!
    No problem, we will have fun.
    * Good, don't worry about anything.
    * That works. Send me a picture!
    """,
    summary="""
    {a} is going to {town} {day}. {b} will look after {a.his} {pet} until {day2.bare}.
    {b} will look after {a.s} {pet} while {a} is in {town}. {a} comes back {day2}.
    {b} will take care of {a.s} {pet} because {a} is going to {town} {day}. {a} comes back {day2}.
    * {b} will take care of {a.s} {pet} while {a} is in {town}. {a} leaves {day}.
    * {a} goes to {town} {day}. {b} will look after {a.his} {pet} until {a} comes back {day2}.
    """,
    recount="""
    {a} <leave> for {town} {day}, and {b} <agree> to look after the {pet} until {a.he} <be> back {day2}.
    {a} <need> somebody for {a.his} {pet}, because {a.he} <be> about to go to {town} {day}. {b} <take> the {pet} \
until {day2.bare}.
    {b} <promise> to feed {a.s} {pet}. {a} <plan> to be in {town} from {day.bare} and to return {day2}.
    """,
)

MOVE = kind(
    "move",
    "street=streets why=a:move_why day=day food=dishes",
    company=True,
    opening="""
    I am moving to {street} {day}, {b}. {why}.
    {b}, I have a new flat in {street}! {why}. The move is {day}.
    Guess what, I am leaving my flat. {why}. I move to {street} {day}.
    * My new home is in {street}, {b}. {why}. I get the keys {day}.
    * {day} I am moving out, {b}. {why}. The new place is in {street}.
    """,
    reply="""
    Do you need help with the boxes? | Yes, please. There will be {food} for everybody.
    I can help you carry things. | That would be great! I will make {food} for you.
    Wow! Shall I come and help? | Please do. We can have {food} after that.
    * Who is helping you? | Nobody yet. I would pay with {food}.
    * Let me help you. | Thank you! You will get {food}.
    """,
    closing="""
    Then I will be there.
    Good. I have strong arms.
    Count on me.
    * I am coming, of course.
    * Sounds fair!
    """,
    summary="""
    {a} is moving to {street} {day} because {why}. {b} will help {a.him}.
    {a} moves to {street} {day} because {why}. {b} will help and get {food}.
    {b} will help {a} move to {street} {day}. {a} is moving because {why}.
    * {a} will move to {street} {day} because {why}. {b} will help {a.him}.
    * {b} will help {a}, who is moving to {street} {day} because {why}.
    """,
    recount="""
    {a} <decide> to move to {street} {day}, because {why}. {b} <offer> to help with the boxes, and {a} <promise> {food}.
    {a} <leave> the old flat for one in {street}, since {why}. {b} <want> to help \
with the move {day} and <look> forward to {food}.
    {both} <+plan> the move to {street} for {day.bare}. {a} <leave> the old flat because {why}. {a.he} <offer> {food} \
for the help.
    """,
)

SELL = kind(
    "sell",
    "thing=sale_items why=a:sell_why price=price day=day",
    opening="""
    I am selling my {thing}, {b}. {why}. Do you want it?
    {b}, do you know anybody who needs {thing.a}? {why}.
    My {thing} is for sale. {why}.
    * Are you still looking for {thing.a}, {b}? I sell mine because {why}.
    * I want to get rid of my {thing}, {b}. {why}.
    """,
    reply="""
    I would take it. How much is it? | {price} for you.
    Oh, I need one! What does it cost? | Give me {price}.
    I am interested. How much do you want? | {price}, I think.
    * Maybe I will buy it. The price? | {price}.
    * How much would that be? | For a friend {price}.
    """,
    closing="""
    Good, I will pick it up {day}.
    That is fair. I can fetch it {day}.
    All right, I will come and get it {day}.
    * Fine! May I collect it {day}? | Yes, do that.
    * I'll take it. I come {day} with the money. | Great!
    """,
    summary="""
    {a} is selling {a.his} {thing} because {why}. {b} will buy it for {price}.
    {b} will buy {a.s} {thing} for {price} and pick it up {day}.
    {a} sells {b} {a.his} {thing} for {price} because {why}. {b} will pick it up {day}.
    * {a} sells {a.his} {thing} because {why}. {b} buys it for {price} and will get it {day}.
    * {b} buys {a.s} {thing} for {price}. {b.he} will pick it up {day}.
    """,
    recount="""
    {a} <want> to sell {a.his} {thing} because {why}. {b} <offer> to pay {price} and to fetch it {day}.
    {b} <buy> {a.s} old {thing} for {price}, and {b.he} <arrange> to collect it {day}. {a} <sell> it since {why}.
    {a} <sell> the {thing} to {b.o} for {price}, because {why}. {b} <plan> to come for it {day}.
    """,
)
KINDS = (BORROW, COOK, REPAIR, PET_CARE, MOVE, SELL)
