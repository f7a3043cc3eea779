"""A small warehouse: articles, stock movements, and a report of what is running out."""

from dataclasses import dataclass, field
from datetime import date


@dataclass
class Article:
    number: str
    name: str
    price_cents: int
    minimum: int = 0


@dataclass
class Movement:
    article: str
    amount: int  # negativ bei Abgang
    day: date
    note: str = ""


@dataclass
class Warehouse:
    articles: dict[str, Article] = field(default_factory=dict)
    movements: list[Movement] = field(default_factory=list)

    def add_article(self, article):
        # Eine Artikelnummer darf nur einmal vergeben werden.
        if article.number in self.articles:
            raise ValueError(f"article {article.number} exists already")
        self.articles[article.number] = article

    def receive(self, number, amount, day, note=""):
        # Wareneingang: nur positive Mengen sind erlaubt.
        if amount <= 0:
            raise ValueError("the amount must be positive")
        self._move(number, amount, day, note)

    def ship(self, number, amount, day, note=""):
        # Warenausgang: der Bestand darf nicht negativ werden.
        if amount <= 0:
            raise ValueError("the amount must be positive")
        if self.stock(number) < amount:
            raise ValueError(f"only {self.stock(number)} of {number} left")
        self._move(number, -amount, day, note)

    def _move(self, number, amount, day, note):
        if number not in self.articles:
            raise KeyError(number)
        self.movements.append(Movement(number, amount, day, note))

    def stock(self, number):
        # Der Bestand ist die Summe aller Bewegungen.
        return sum(m.amount for m in self.movements if m.article == number)

    def value_cents(self):
        return sum(self.stock(a.number) * a.price_cents for a in self.articles.values())

    def running_out(self):
        # Artikel, deren Bestand unter dem Mindestbestand liegt.
        found = []
        for article in self.articles.values():
            left = self.stock(article.number)
            if left < article.minimum:
                found.append((article, article.minimum - left))
        return sorted(found, key=lambda pair: pair[1], reverse=True)

    def history(self, number, since=None):
        rows = [m for m in self.movements if m.article == number]
        if since is not None:
            rows = [m for m in rows if m.day >= since]
        return rows

    def monthly_totals(self, number):
        totals = {}
        for movement in self.history(number):
            month = (movement.day.year, movement.day.month)
            incoming, outgoing = totals.get(month, (0, 0))
            if movement.amount > 0:
                incoming += movement.amount
            else:
                outgoing -= movement.amount
            totals[month] = (incoming, outgoing)
        return totals


def report(warehouse):
    lines = ["Stock report", "============"]
    for article in sorted(warehouse.articles.values(), key=lambda a: a.name):
        left = warehouse.stock(article.number)
        mark = "!" if left < article.minimum else " "
        lines.append(f"{mark} {article.name:<24} {left:>6} x {article.price_cents / 100:>8.2f}")
    lines.append(f"Total value: {warehouse.value_cents() / 100:.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    warehouse = Warehouse()
    warehouse.add_article(Article("A1", "Screws M4", 5, minimum=500))
    warehouse.add_article(Article("A2", "Hammer", 1490, minimum=3))
    warehouse.receive("A1", 2000, date(2024, 3, 1), "first delivery")
    warehouse.receive("A2", 5, date(2024, 3, 2))
    warehouse.ship("A2", 4, date(2024, 3, 9), "order 17")
    print(report(warehouse))
