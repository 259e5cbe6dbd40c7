// SPDX-License-Identifier: Apache-2.0
package dev.byrnie.barrier;

import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ThreadLocalRandom;
import java.util.function.UnaryOperator;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * A participant's barrier: each call of a transaction takes effect once, in the right order, in this program's own
 * database. Works over JDBC with SQLite, PostgreSQL, MySQL and MariaDB, and needs the table of {@code barrier/schema}. The
 * guarantee and its limits: {@code barrier/README.md}.
 */
public final class Barrier {
    private static final int ATTEMPTS_MAX = 10; // of one transaction that loses races in the database
    private static final int TXN_BYTES_MAX = 160, BRANCH_BYTES_MAX = 64, OP_BYTES_MAX = 16; // the table's columns
    private static final List<String> OPS =
        List.of("action", "try", "compensate", "cancel", "confirm", "complete", "check");
    private static final Map<String, String> UNDOES = Map.of("compensate", "action", "cancel", "try");
    private static final Set<String> RACES = Set.of("40001", "40P01"); // SQLSTATEs
    private static final Set<Integer> RACES_OF_MYSQL = Set.of(1205, 1213, 1020);
    private static final Pattern QUOTED = Pattern.compile("\"((?:[ !#-\\[\\]-~]|\\\\[\"\\\\])*)\"");
    private static final Pattern BARE = Pattern.compile("[!#-+\\--:<-\\[\\]-~]*");
    private static final Pattern CONTROL = Pattern.compile("[\\x00-\\x1f\\x7f]");

    private Barrier() {}

    /** What the caller gets: an HTTP status and a text without U+0000. */
    public record Answer(int status, String body) {
        /** 200 without a text. */
        public static final Answer OK = new Answer(200, "");
    }

    /** Thrown by a business that says no: its transaction is rolled back, and the answer passes on. */
    public static final class Rejected extends RuntimeException {
        private static final long serialVersionUID = 1;
        private final transient Answer answer;

        public Rejected(int status, String body) {
            super(status + " " + body);
            answer = new Answer(status, body);
        }

        public Answer answer() {
            return answer;
        }
    }

    /** Does the work over the connection, which it must neither commit nor roll back. */
    @FunctionalInterface
    public interface Business<E extends Exception> {
        Answer run(Connection connection) throws E, SQLException;
    }

    /**
     * Lets the business run if this call hasn't taken effect before, and returns the answer for the caller.
     *
     * <p>The business may be called up to 10 times, each time after a rollback. An answer of 400 and above, or {@link
     * Rejected}, is a no; whatever else it throws rolls back and is thrown here. A call for {@code check} needs no business
     * (null). Bad headers are answered 400.
     *
     * @param connection without an open transaction; one is begun here, and committed or rolled back
     * @param header a header's only value by its name, or null: {@code request::getHeader}
     */
    public static <E extends Exception> Answer run(
            Connection connection, UnaryOperator<String> header, Business<E> business) throws E, SQLException {
        Call call;
        try {
            call = read(header);
        } catch (Rejected no) {
            return no.answer();
        }
        if (business == null && !call.op.equals("check")) {
            throw new IllegalArgumentException("no business for Txn-Op " + call.op);
        }
        boolean automatic = connection.getAutoCommit();
        // SQLite's transaction begins with an insert, which takes the lock that "begin immediate" would.
        connection.setAutoCommit(false);
        try {
            for (int attempt = 1; ; attempt++) {
                try {
                    Answer answer = pass(new Table(connection), call, business);
                    connection.commit();
                    return answer;
                } catch (Rejected no) {
                    connection.rollback();
                    return no.answer();
                } catch (Throwable error) {
                    try {
                        connection.rollback();
                    } catch (SQLException lost) {
                        error.addSuppressed(lost);
                        throw error;
                    }
                    if (!isRace(error) || attempt == ATTEMPTS_MAX) {
                        throw error;
                    }
                }
                pause(attempt);
            }
        } finally {
            if (!connection.isClosed()) {
                connection.setAutoCommit(automatic);
            }
        }
    }

    /**
     * Says, in the creator's own open transaction, that the message is made.
     *
     * @throws Rejected (409) if its check came first or it exists already: then roll back
     */
    public static void message(Connection connection, String id) throws SQLException {
        fits("the message's id", id, TXN_BYTES_MAX);
        Row row = new Table(connection).insertOrRead(id, "00", "msg", "msg");
        if (!row.isNew) {
            throw new Rejected(409, row.by.equals("msg") ? "message " + id + " exists already"
                : "too late: the check of message " + id + " came first");
        }
    }

    private static <E extends Exception> Answer pass(Table table, Call call, Business<E> business)
            throws E, SQLException {
        if (call.op.equals("check")) {
            Row row = table.insertOrRead(call.txn, "00", "msg", "rollback");
            return row.by.equals("msg") ? Answer.OK : new Answer(409, "the message was never sent");
        }
        String undone = UNDOES.get(call.op);
        // Whoever undoes what never came holds its place, so that it comes too late. A repetition finds its own row there.
        if (undone != null && table.insertOrRead(call.txn, call.branch, undone, call.op).by.equals(call.op)) {
            return Answer.OK;
        }
        String own = call.op.equals("complete") ? "confirm" : call.op;
        Row row = table.insertOrRead(call.txn, call.branch, own, own);
        if (!row.isNew) {
            if (!own.equals("action") && !own.equals("try")) {
                return Answer.OK;
            }
            if (!row.by.equals(own)) {
                throw new Rejected(409, "too late: " + row.by + " came first");
            }
            return new Answer(Integer.parseInt(row.response.substring(0, 3)), row.response.substring(4));
        }
        Answer answer = business.run(table.connection);
        if (answer.status < 200 || answer.status > 599 || answer.body.indexOf(0) >= 0 || !isWellFormed(answer.body)) {
            throw new IllegalStateException("a business answers a status of 200 to 599 and a text without U+0000: " + answer);
        }
        if (answer.status >= 400) {
            throw new Rejected(answer.status, answer.body);
        }
        // Kept for every operation: where the business has hidden a database error, this statement fails.
        table.keep(call.txn, call.branch, own, answer.status + " " + answer.body);
        return answer;
    }

    private record Call(String txn, String branch, String op) {}

    private record Row(boolean isNew, String by, String response) {}

    /** The table's statements in the words of one database. */
    private static final class Table {
        private final Connection connection;
        private final String verb, tail, lock;

        Table(Connection connection) throws SQLException {
            this.connection = connection;
            String product = connection.getMetaData().getDatabaseProductName();
            switch (product) {
                case "PostgreSQL" -> { verb = "insert"; tail = " on conflict do nothing"; lock = ""; }
                case "SQLite" -> { verb = "insert or ignore"; tail = ""; lock = ""; }
                // An older snapshot might not show a row that the insert has met: so with a lock.
                case "MySQL", "MariaDB" -> { verb = "insert ignore"; tail = ""; lock = " lock in share mode"; }
                default -> throw new SQLException("no barrier for " + product);
            }
        }

        /** Whether the row is new, and else who made it. Waits for a transaction that holds the same. */
        Row insertOrRead(String txn, String branch, String op, String by) throws SQLException {
            String insert = verb + " into mesh_barrier (txn, branch, op, by_op) values (?, ?, ?, ?)" + tail;
            try (PreparedStatement statement = prepare(insert, txn, branch, op, by)) {
                if (statement.executeUpdate() == 1) {
                    return new Row(true, by, null);
                }
            }
            String read = "select by_op, response from mesh_barrier where txn = ? and branch = ? and op = ?" + lock;
            try (PreparedStatement statement = prepare(read, txn, branch, op); ResultSet found = statement.executeQuery()) {
                if (!found.next()) {
                    throw new SQLException("somebody deletes rows of mesh_barrier that are in use: "
                        + String.join(" ", txn, branch, op));
                }
                return new Row(false, found.getString(1), found.getString(2));
            }
        }

        void keep(String txn, String branch, String op, String response) throws SQLException {
            String update = "update mesh_barrier set response = ? where txn = ? and branch = ? and op = ?";
            try (PreparedStatement statement = prepare(update, response, txn, branch, op)) {
                statement.executeUpdate();
            }
        }

        private PreparedStatement prepare(String text, String... values) throws SQLException {
            PreparedStatement statement = connection.prepareStatement(text);
            for (int at = 0; at < values.length; at++) {
                statement.setString(at + 1, values[at]);
            }
            return statement;
        }
    }

    private static Call read(UnaryOperator<String> header) {
        String txn = header.apply("Txn-Id");
        if (txn == null) {
            String key = header.apply("Idempotency-Key");
            if (key == null) {
                throw new Rejected(400, "there is neither Txn-Id nor Idempotency-Key");
            }
            return new Call(fits("Idempotency-Key", unquoted(key), TXN_BYTES_MAX), "-", "action");
        }
        fits("Txn-Id", txn, TXN_BYTES_MAX);
        String branch = fits("Txn-Branch", header.apply("Txn-Branch"), BRANCH_BYTES_MAX);
        String op = fits("Txn-Op", header.apply("Txn-Op"), OP_BYTES_MAX);
        if (!OPS.contains(op)) {
            throw new Rejected(400, "Txn-Op is none of " + String.join(", ", OPS));
        }
        return new Call(txn, branch, op);
    }

    private static String fits(String name, String text, int most) {
        String wrong = text == null ? " is missing"
            : text.isEmpty() ? " is empty"
            : text.getBytes(StandardCharsets.UTF_8).length > most ? " is longer than " + most + " bytes"
            : CONTROL.matcher(text).find() ? " has a control character in it"
            : !isWellFormed(text) ? " isn't well-formed Unicode" : null;
        if (wrong != null) {
            throw new Rejected(400, name + wrong);
        }
        return text;
    }

    private static boolean isWellFormed(String text) {
        return StandardCharsets.UTF_8.newEncoder().canEncode(text);
    }

    /** A key as RFC 8941 quotes it, or the same characters bare. */
    private static String unquoted(String value) {
        String bare = value.replaceAll("^[ \\t\\r\\n\\f]+|[ \\t\\r\\n\\f]+$", "");
        Matcher quoted = QUOTED.matcher(bare);
        if (quoted.matches()) {
            return quoted.group(1).replaceAll("\\\\(.)", "$1");
        }
        if (!BARE.matcher(bare).matches()) {
            throw new Rejected(400, "Idempotency-Key isn't a string in quotes of printable ASCII");
        }
        return bare;
    }

    /** Whether the database ended the transaction for the sake of another: run again, it may do. */
    private static boolean isRace(Throwable error) {
        for (Throwable cause = error; cause != null; cause = cause.getCause()) {
            if (cause instanceof SQLException sql) {
                return RACES.contains(String.valueOf(sql.getSQLState())) || RACES_OF_MYSQL.contains(sql.getErrorCode());
            }
        }
        return false;
    }

    private static void pause(int attempt) throws SQLException {
        try {
            Thread.sleep(ThreadLocalRandom.current().nextLong(10L * attempt));
        } catch (InterruptedException stop) {
            Thread.currentThread().interrupt();
            throw new SQLException("interrupted between two attempts of a transaction", stop);
        }
    }
}
