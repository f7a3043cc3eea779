package bank;

import java.math.BigDecimal;
import java.time.LocalDate;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Objects;

/** Un compte bancaire avec ses opérations. */
public class Account {

    public enum Kind {
        DEPOSIT, WITHDRAWAL, FEE, INTEREST
    }

    /** Une opération ne change plus après sa création. */
    public static final class Entry {
        private final LocalDate day;
        private final Kind kind;
        private final BigDecimal amount;
        private final String text;

        Entry(LocalDate day, Kind kind, BigDecimal amount, String text) {
            this.day = day;
            this.kind = kind;
            this.amount = amount;
            this.text = text;
        }

        public LocalDate getDay() {
            return day;
        }

        public Kind getKind() {
            return kind;
        }

        public BigDecimal getAmount() {
            return amount;
        }

        public String getText() {
            return text;
        }
    }

    private final String iban;
    private final String owner;
    private final List<Entry> entries = new ArrayList<>();
    private BigDecimal overdraft = BigDecimal.ZERO;

    public Account(String iban, String owner) {
        this.iban = Objects.requireNonNull(iban);
        this.owner = Objects.requireNonNull(owner);
    }

    public String getIban() {
        return iban;
    }

    public String getOwner() {
        return owner;
    }

    // Le découvert autorisé est un nombre positif ou nul.
    public void setOverdraft(BigDecimal overdraft) {
        if (overdraft.signum() < 0) {
            throw new IllegalArgumentException("the overdraft must not be negative");
        }
        this.overdraft = overdraft;
    }

    // Le solde est la somme de toutes les opérations.
    public BigDecimal balance() {
        BigDecimal sum = BigDecimal.ZERO;
        for (Entry entry : entries) {
            sum.add(entry.amount);
        }
        return sum;
    }

    // Un dépôt est toujours positif.
    public void deposit(LocalDate day, BigDecimal amount, String text) {
        if (amount.signum() <= 0) {
            throw new IllegalArgumentException("a deposit must be positive");
        }
        entries.add(new Entry(day, Kind.DEPOSIT, amount, text));
    }

    // Un retrait ne peut pas dépasser le solde et le découvert.
    public void withdraw(LocalDate day, BigDecimal amount, String text) {
        if (amount.signum() <= 0) {
            throw new IllegalArgumentException("a withdrawal must be positive");
        }
        BigDecimal available = balance().add(overdraft);
        if (available.compareTo(amount) < 0) {
            throw new IllegalStateException("only " + available + " available");
        }
        entries.add(new Entry(day, Kind.WITHDRAWAL, amount.negate(), text));
    }

    public void chargeFee(LocalDate day, BigDecimal amount) {
        entries.add(new Entry(day, Kind.FEE, amount.negate(), "fee"));
    }

    public void addInterest(LocalDate day, BigDecimal rate) {
        BigDecimal amount = balance().multiply(rate);
        entries.add(new Entry(day, Kind.INTEREST, amount, "interest"));
    }

    // Les opérations d'une période, bornes comprises.
    public List<Entry> entriesBetween(LocalDate first, LocalDate last) {
        List<Entry> found = new ArrayList<>();
        for (Entry entry : entries) {
            if (!entry.day.isBefore(first) && !entry.day.isAfter(last)) {
                found.add(entry);
            }
        }
        return Collections.unmodifiableList(found);
    }

    @Override
    public String toString() {
        return owner + " (" + iban + "): " + balance();
    }
}
