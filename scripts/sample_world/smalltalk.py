"""What people say beside the matter: no summary and no recount mentions it, a third speaker's news excepted."""

from .kind import Phrases

# before the opening, by the same speaker
GREETINGS = Phrases("""
Hi!
Hello!
Hey!
Good morning!
Good evening.
* Hey there!
* Hello again!
""")

# two turns before the opening
WARM_UP = Phrases("""
Hi {b}, how are you? | Fine, thanks. And you?
Hello {b}! | Hi {a}!
Are you busy, {b}? | No, what is it?
{b}, are you there? | Yes, I just got home.
What a day! | Yes, it is so hot outside.
How was your weekend, {b}? | Quiet. I slept a lot.
Hello, {b}! Long time no see! | Yes, I have been so busy.
Can we talk, {b}? | Sure, I have a short break.
It is so cold today! | Yes, I am wearing two jumpers.
Did I wake you up, {b}? | No, I am having tea.
* Hey {b}, got a minute? | For you, always.
* Good to see you online, {b}! | You too, {a}.
* Is it raining at your place, {b}? | Yes, since this morning.
""")

# two turns after the closing
AFTER = Phrases("""
By the way, how is your mother? | Much better, thank you.
Bye for now! | Bye!
Have a nice day! | You too!
I have to go now. | Sure, talk to you soon.
Did you see the news? | No, I was too tired.
* And how is the garden? | It is full of flowers.
* Say hello to your family! | I will.
* I must get back to work. | Me too.
""")

# A third speaker c asks to join, somebody agrees; then how a summary and a recount tell it.
JOINING = Phrases("""
Can I come too? | Sure, {c}, we would like that. => {c} will come too. => {c} <want> to come along as well.
That sounds like fun! Is there room for me? | Of course, {c}! => {c} will join them. => {c} <decide> to join them.
May I join you? | Yes, {c}, please do. => {c} will join them. => {c} <ask> to be there too.
* I want to be there as well! | Then come, {c}! => {c} will come too. => {c} <ask> to come along.
* Am I invited, too? | Naturally, {c}! => {c} will join them. => {c} <plan> to be there as well.
""")

# A third speaker c who says nothing that matters.
BYSTANDER = Phrases("""
I have no time, but have fun!
Nice to hear from you two!
Sorry, I have just read all this.
Greetings from the office!
* I will be away, sadly.
* You two are funny.
""")
