"""Reads a CSV of sales and prints totals by region and month, as text or as HTML."""

import argparse
import csv
import sys
from collections import defaultdict


class Sale:
    def __init__(self, region, month, product, amount, price):
        self.region = region
        self.month = month
        self.product = product
        self.amount = amount
        self.price = price

    @property
    def total(self):
        return self.amount * self.price


def read_sales(file):
    sales = []
    for number, row in enumerate(csv.DictReader(file), start=2):
        try:
            sale = Sale(
                region=row["region"].strip(),
                month=row["date"][:7],
                product=row["product"].strip(),
                amount=int(row["amount"]),
                price=float(row["price"]),
            )
        except (KeyError, ValueError) as error:
            raise SystemExit(f"line {number} is broken: {error}")
        sales.append(sale)
    return sales


def totals_by(sales, key):
    totals = defaultdict(float)
    for sale in sales:
        totals[key(sale)] += sale.total
    return dict(totals)


def best_products(sales, count=3):
    totals = totals_by(sales, lambda sale: sale.product)
    ranked = sorted(totals.items(), key=lambda pair: pair[1])
    return ranked[:count]


def table_of(sales):
    regions = sorted({sale.region for sale in sales})
    months = sorted({sale.month for sale in sales})
    cells = totals_by(sales, lambda sale: (sale.region, sale.month))
    rows = []
    for region in regions:
        values = [cells.get((region, month), 0.0) for month in months]
        rows.append((region, values, sum(values)))
    return months, rows


def as_text(months, rows):
    lines = ["region".ljust(14) + "".join(month.rjust(12) for month in months) + "total".rjust(12)]
    for region, values, total in rows:
        cells = "".join(f"{value:12.2f}" for value in values)
        lines.append(region.ljust(14) + cells + f"{total:12.2f}")
    return "\n".join(lines)


def as_html(months, rows):
    head = "".join(f"<th>{month}</th>" for month in months)
    lines = ["<table>", f"<tr><th>region</th>{head}<th>total</th></tr>"]
    for region, values, total in rows:
        cells = "".join(f"<td>{value:.2f}</td>" for value in values)
        lines.append(f"<tr><td>{region}</td>{cells}<td>{total:.2f}</td></tr>")
    lines.append("</table>")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--html", action="store_true")
    parser.add_argument("--best", type=int, default=3)
    args = parser.parse_args()
    with open(args.file, newline="") as file:
        sales = read_sales(file)
    months, rows = table_of(sales)
    write = as_html if args.html else as_text
    print(write(months, rows))
    for product, total in best_products(sales, args.best):
        print(f"{product}: {total:.2f}", file=sys.stderr)


if __name__ == "__main__":
    main()
