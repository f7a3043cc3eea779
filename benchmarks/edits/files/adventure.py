"""A text adventure: rooms, things, a player, and a parser of commands."""

import json
import random
import sys

DIRECTIONS = {"n": "north", "s": "south", "e": "east", "w": "west", "u": "up", "d": "down"}
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east", "up": "down", "down": "up"}


class Thing:
    def __init__(self, name, text, weight=1, edible=False, lit=False):
        self.name = name
        self.text = text
        self.weight = weight
        self.edible = edible
        self.lit = lit

    def __repr__(self):
        return f"Thing({self.name!r})"


class Room:
    def __init__(self, name, text, dark=False):
        self.name = name
        self.text = text
        self.dark = dark
        self.exits = {}
        self.things = []
        self.visited = False

    def connect(self, direction, other, both=True):
        self.exits[direction] = other
        if both:
            other.exits[OPPOSITE[direction]] = self

    def find(self, name):
        for thing in self.things:
            if thing.name == name:
                return thing
        return None


class Player:
    def __init__(self, room, strength=10):
        self.room = room
        self.strength = strength
        self.health = 10
        self.score = 0
        self.things = []

    def load(self):
        return sum(thing.weight for thing in self.things)

    def find(self, name):
        for thing in self.things:
            if thing.name == name:
                return thing
        return None

    def has_light(self):
        return any(thing.lit for thing in self.things)


class Game:
    def __init__(self, player, seed=None):
        self.player = player
        self.random = random.Random(seed)
        self.turns = 0
        self.is_over = False
        self.commands = {
            "look": self.look,
            "go": self.go,
            "take": self.take,
            "drop": self.drop,
            "inventory": self.inventory,
            "examine": self.examine,
            "eat": self.eat,
            "light": self.light,
            "rest": self.rest,
            "score": self.show_score,
            "quit": self.quit,
        }

    def run_line(self, line):
        words = line.lower().split()
        if not words:
            return "Say something."
        verb, rest = words[0], " ".join(words[1:])
        if verb in DIRECTIONS or verb in OPPOSITE:
            verb, rest = "go", verb
        if verb == "i":
            verb = "inventory"
        if verb == "x":
            verb = "examine"
        command = self.commands.get(verb)
        if command is None:
            return f"I do not know how to {verb}."
        self.turns += 1
        return command(rest)

    def look(self, _=""):
        room = self.player.room
        if room.dark and not self.player.has_light():
            return "It is pitch dark."
        lines = [room.name, room.text]
        for thing in room.things:
            lines.append(f"There is a {thing.name} here.")
        if room.exits:
            lines.append("Exits: " + ", ".join(sorted(room.exits)) + ".")
        return "\n".join(lines)

    def go(self, where):
        direction = DIRECTIONS.get(where, where)
        room = self.player.room
        if direction not in room.exits:
            return "You cannot go there."
        if room.dark and not self.player.has_light() and self.random.random() < 0.25:
            self.player.health -= 1
            if self.player.health < 0:
                self.is_over = True
                return "You stumble in the dark, and do not get up again."
            return "You stumble in the dark."
        self.player.room = room.exits[direction]
        if not self.player.room.visited:
            self.player.room.visited = True
            self.player.score += 5
        return self.look()

    def take(self, name):
        thing = self.player.room.find(name)
        if thing is None:
            return f"There is no {name} here."
        if self.player.load() + thing.weight > self.player.strength:
            return "You carry too much."
        self.player.room.things.remove(thing)
        self.player.things.append(thing)
        return "Taken."

    def drop(self, name):
        thing = self.player.find(name)
        if thing is None:
            return f"You have no {name}."
        self.player.things.remove(thing)
        return "Dropped."

    def inventory(self, _=""):
        if not self.player.things:
            return "You carry nothing."
        return "You carry: " + ", ".join(thing.name for thing in self.player.things) + "."

    def examine(self, name):
        thing = self.player.find(name) or self.player.room.find(name)
        if thing is None:
            return f"There is no {name} here."
        return thing.text

    def eat(self, name):
        thing = self.player.find(name)
        if thing is None:
            return f"You have no {name}."
        if not thing.edible:
            return f"You cannot eat the {name}."
        self.player.things.remove(thing)
        self.player.health = min(10, self.player.health + 3)
        return "Delicious."

    def light(self, name):
        thing = self.player.find(name)
        if thing is None:
            return f"You have no {name}."
        if thing.name not in ("lamp", "torch"):
            return f"You cannot light the {name}."
        thing.lit = True
        return f"The {name} is burning."

    def rest(self, _=""):
        self.player.health = min(10, self.player.health + 1)
        return "You rest for a while."

    def show_score(self, _=""):
        return f"{self.player.score} points in {self.turns} turns, health {self.player.health}."

    def quit(self, _=""):
        self.is_over = True
        return self.show_score()

    def save(self, path):
        state = {
            "room": self.player.room.name,
            "health": self.player.health,
            "score": self.player.score,
            "turns": self.turns,
            "things": [thing.name for thing in self.player.things],
        }
        with open(path, "w") as file:
            json.dump(state, file)


def make_world():
    hall = Room("Hall", "A wide hall with a cold fireplace.")
    kitchen = Room("Kitchen", "It smells of onions.")
    cellar = Room("Cellar", "Barrels stand along the walls.", dark=True)
    garden = Room("Garden", "Roses, and a gate that is locked.")
    hall.connect("east", kitchen)
    hall.connect("south", garden)
    kitchen.connect("down", cellar)
    hall.things.append(Thing("lamp", "An old oil lamp.", weight=2))
    kitchen.things.append(Thing("bread", "Fresh bread.", edible=True))
    cellar.things.append(Thing("key", "A rusty key."))
    garden.things.append(Thing("stone", "A heavy stone.", weight=9))
    return hall


def main():
    game = Game(Player(make_world()))
    print(game.look())
    while not game.is_over:
        print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            break
        print(game.run_line(line))


if __name__ == "__main__":
    main()
