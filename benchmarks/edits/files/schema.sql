-- A lending library: members, books, copies, loans and fines.

CREATE TABLE members (
    id          INTEGER PRIMARY KEY,
    name        TEXT NOT NULL,
    email       TEXT NOT NULL UNIQUE,
    joined_on   DATE NOT NULL DEFAULT CURRENT_DATE,
    is_active   BOOLEAN NOT NULL DEFAULT TRUE
);

CREATE TABLE authors (
    id          INTEGER PRIMARY KEY,
    name        TEXT NOT NULL,
    born        INTEGER,
    died        INTEGER,
    CHECK (died IS NULL OR died >= born)
);

CREATE TABLE books (
    id          INTEGER PRIMARY KEY,
    isbn        TEXT UNIQUE,
    title       TEXT NOT NULL,
    published   INTEGER,
    language    TEXT NOT NULL DEFAULT 'en'
);

CREATE TABLE book_authors (
    book_id     INTEGER NOT NULL REFERENCES books (id) ON DELETE CASCADE,
    author_id   INTEGER NOT NULL REFERENCES authors (id),
    position    INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (book_id, author_id)
);

CREATE TABLE copies (
    id          INTEGER PRIMARY KEY,
    book_id     INTEGER NOT NULL REFERENCES books (id),
    shelf       TEXT NOT NULL,
    condition   TEXT NOT NULL DEFAULT 'good' CHECK (condition IN ('new', 'good', 'worn', 'lost'))
);

CREATE TABLE loans (
    id          INTEGER PRIMARY KEY,
    copy_id     INTEGER NOT NULL REFERENCES copies (id),
    member_id   INTEGER NOT NULL REFERENCES members (id),
    lent_on     DATE NOT NULL DEFAULT CURRENT_DATE,
    due_on      DATE NOT NULL,
    returned_on DATE,
    CHECK (due_on > lent_on)
);

CREATE TABLE fines (
    id           INTEGER PRIMARY KEY,
    loan_id      INTEGER NOT NULL REFERENCES loans (id),
    amount_cents INTEGER NOT NULL CHECK (amount_cents > 0),
    paid_on      DATE
);

CREATE INDEX loans_by_member ON loans (member_id, returned_on);
CREATE INDEX loans_by_copy ON loans (copy_id, returned_on);
CREATE INDEX copies_by_book ON copies (book_id);

-- Copies that can be borrowed now.
CREATE VIEW available_copies AS
SELECT copies.id, copies.book_id, copies.shelf, books.title
FROM copies
JOIN books ON books.id = copies.book_id
WHERE copies.condition <> 'lost'
  AND NOT EXISTS (
      SELECT 1 FROM loans
      WHERE loans.copy_id = copies.id AND loans.returned_on IS NULL
  );

-- Loans that should have been returned.
CREATE VIEW overdue_loans AS
SELECT loans.id, members.name, members.email, books.title, loans.due_on
FROM loans
JOIN members ON members.id = loans.member_id
JOIN copies ON copies.id = loans.copy_id
JOIN books ON books.id = copies.book_id
WHERE loans.returned_on IS NULL AND loans.due_on < CURRENT_DATE;

-- What each member owes.
CREATE VIEW open_fines AS
SELECT members.id, members.name, SUM(fines.amount_cents) AS owed_cents
FROM fines
JOIN loans ON loans.id = fines.loan_id
JOIN members ON members.id = loans.member_id
WHERE fines.paid_on IS NULL
GROUP BY members.id, members.name;

-- The ten books that were lent most often this year.
CREATE VIEW favourites AS
SELECT books.id, books.title, COUNT(*) AS times_lent
FROM loans
JOIN copies ON copies.id = loans.copy_id
JOIN books ON books.id = copies.book_id
WHERE loans.lent_on >= DATE('now', 'start of year')
GROUP BY books.id, books.title
ORDER BY times_lent
LIMIT 10;
