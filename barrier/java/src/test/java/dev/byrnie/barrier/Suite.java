// SPDX-License-Identifier: Apache-2.0
package dev.byrnie.barrier;

import com.google.gson.Gson;
import dev.byrnie.barrier.Barrier.Answer;
import dev.byrnie.barrier.Barrier.Rejected;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * Runs the shared suite: {@code java dev.byrnie.barrier.Suite BARRIER_FOLDER}, on SQLite, and on what BARRIER_POSTGRES and
 * BARRIER_MYSQL name as URLs. Ends with 1 if a case fails.
 */
public final class Suite {
    private static final String[] ROW = {"txn", "branch", "op", "by_op", "response"};

    record Plan(int add, Integer status, String body, Expect rejects, boolean raises, boolean swallows, int conflicts) {}

    record Expect(int status, String body, boolean raises, int runs) {}

    record Step(Map<String, String> headers, Plan business, int copies, String message, int add, Expect expect) {}

    record Case(String name, List<String> on, List<Step> steps, int balance, List<List<String>> rows) {}

    record Cases(List<Case> cases) {}

    /** An answer, or what was thrown instead. */
    record Outcome(Answer answer, Throwable error) {}

    private final String name, url, lostRace, schema;

    private Suite(String name, String url, String lostRace, Path folder) throws Exception {
        this.name = name;
        this.url = url;
        this.lostRace = lostRace;
        String text = Files.readString(folder.resolve("schema").resolve(name + ".sql")).strip();
        schema = text.substring(0, text.length() - 1);
    }

    public static void main(String[] args) throws Exception {
        Path folder = Path.of(args[0]);
        Cases all = new Gson().fromJson(Files.readString(folder.resolve("cases.json")), Cases.class);
        Path scratch = Files.createTempDirectory("barrier-");
        Path file = scratch.resolve("test.db");
        List<Suite> suites = new ArrayList<>();
        suites.add(new Suite("sqlite", "jdbc:sqlite:" + file + "?busy_timeout=60000", "", folder));
        String postgres = System.getenv("BARRIER_POSTGRES"), mysql = System.getenv("BARRIER_MYSQL");
        if (postgres != null) {
            String lost = "do $$ begin raise exception using errcode = '40001'; end $$";
            suites.add(new Suite("postgres", jdbc("postgresql", postgres), lost, folder));
        }
        if (mysql != null) {
            String lost = "signal sqlstate '40001' set mysql_errno = 1213";
            suites.add(new Suite("mysql", jdbc("mariadb", mysql), lost, folder));
        }
        int failed = 0, passed = 0;
        for (Suite suite : suites) {
            for (Case one : all.cases) {
                if (one.on != null && !one.on.contains(suite.name)) {
                    continue;
                }
                List<String> wrong = suite.run(one);
                wrong.forEach(what -> System.out.println(suite.name + ": " + one.name + ": " + what));
                failed += wrong.isEmpty() ? 0 : 1;
                passed += wrong.isEmpty() ? 1 : 0;
            }
            failed += suite.oddities();
        }
        Files.deleteIfExists(file);
        Files.delete(scratch);
        System.out.println(passed + " passed, " + failed + " failed on " + suites.stream().map(s -> s.name).toList());
        System.exit(failed == 0 && passed > 0 ? 0 : 1);
    }

    private static String jdbc(String driver, String text) {
        URI at = URI.create(text);
        return "jdbc:" + driver + "://" + at.getHost() + ":" + at.getPort() + at.getPath() + "?user=" + at.getUserInfo();
    }

    private Connection connect() throws SQLException {
        return DriverManager.getConnection(url);
    }

    private static void execute(Connection connection, String... texts) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            for (String text : texts) {
                statement.execute(text);
            }
        }
    }

    private static void add(Connection connection, int amount) throws SQLException {
        execute(connection, "update account set balance = balance + (" + amount + ") where id = 1");
    }

    private void fresh(Connection connection) throws SQLException {
        execute(connection, "drop table if exists mesh_barrier", "drop table if exists account", schema,
            "create table account (id int primary key, balance int not null)", "insert into account values (1, 100)");
    }

    /** What is wrong. */
    private List<String> run(Case one) throws Exception {
        List<String> wrong = new ArrayList<>();
        try (Connection connection = connect()) {
            fresh(connection);
            for (Step step : one.steps) {
                together(step, wrong);
            }
            List<List<String>> found = rows(connection, "select balance from account", "balance");
            if (!found.equals(List.of(List.of(String.valueOf(one.balance))))) {
                wrong.add("the balance is " + found + ", not " + one.balance);
            }
            List<List<String>> rows = rows(connection, "select * from mesh_barrier", ROW);
            if (rows.size() != one.rows.size() || !rows.containsAll(one.rows)) {
                wrong.add("the rows are " + rows + ", not " + one.rows);
            }
        }
        return wrong;
    }

    private static List<List<String>> rows(Connection connection, String query, String... columns) throws SQLException {
        List<List<String>> rows = new ArrayList<>();
        try (Statement statement = connection.createStatement(); ResultSet found = statement.executeQuery(query)) {
            while (found.next()) {
                String[] row = new String[columns.length];
                for (int at = 0; at < row.length; at++) {
                    row[at] = found.getString(columns[at]);
                }
                rows.add(Arrays.asList(row));
            }
        }
        return rows;
    }

    /** All copies at one time: the business that runs waits until all are on their way. */
    private void together(Step step, List<String> wrong) throws Exception {
        int copies = Math.max(step.copies, 1);
        AtomicInteger ran = new AtomicInteger();
        CountDownLatch begun = new CountDownLatch(copies);
        ExecutorService threads = Executors.newFixedThreadPool(copies);
        List<Future<Outcome>> outcomes = new ArrayList<>();
        for (int i = 0; i < copies; i++) {
            Callable<Outcome> one = () -> {
                begun.countDown();
                return step.message == null ? call(step, ran, begun) : message(step);
            };
            outcomes.add(threads.submit(one));
        }
        for (Future<Outcome> future : outcomes) {
            Outcome outcome = future.get();
            Answer answer = outcome.answer;
            boolean asExpected = answer == null ? step.expect.raises
                : !step.expect.raises && answer.status() == step.expect.status
                    && (step.expect.body == null || answer.body().equals(step.expect.body));
            if (!asExpected) {
                wrong.add(step + " gave " + outcome);
            }
        }
        threads.shutdown();
        if (ran.get() != step.expect.runs) {
            wrong.add(step + ": the business ran " + ran + " times");
        }
    }

    private Outcome call(Step step, AtomicInteger ran, CountDownLatch begun) {
        Map<String, String> headers = new TreeMap<>(String.CASE_INSENSITIVE_ORDER);
        headers.putAll(step.headers);
        Plan plan = step.business;
        try (Connection connection = connect()) {
            Barrier.Business<Exception> business = plan == null ? null : within -> {
                int run = ran.incrementAndGet();
                begun.await();
                add(within, plan.add);
                if (run <= plan.conflicts) {
                    execute(within, lostRace);
                }
                if (plan.raises) {
                    throw new Exception("boom");
                }
                if (plan.rejects != null) {
                    throw new Rejected(plan.rejects.status, plan.rejects.body);
                }
                if (plan.swallows) {
                    try {
                        execute(within, "select * from there_is_no_such_table");
                    } catch (SQLException hidden) {
                        return Answer.OK;
                    }
                }
                return new Answer(plan.status, plan.body);
            };
            return new Outcome(Barrier.run(connection, headers::get, business), null);
        } catch (Throwable error) {
            return new Outcome(null, error);
        }
    }

    /** The creator of a message: its own change and the message, in one transaction. */
    private Outcome message(Step step) {
        try (Connection connection = connect()) {
            connection.setAutoCommit(false);
            try {
                add(connection, step.add);
                Barrier.message(connection, step.message);
                connection.commit();
                return new Outcome(Answer.OK, null);
            } catch (Rejected no) {
                connection.rollback();
                return new Outcome(no.answer(), null);
            }
        } catch (Throwable error) {
            return new Outcome(null, error);
        }
    }

    /** What only this language can get wrong; how much of it is. */
    private int oddities() throws SQLException {
        int failed = 0;
        try (Connection connection = connect()) {
            fresh(connection);
            Map<String, String> bad = Map.of("Txn-Id", "\ud800", "Txn-Branch", "b", "Txn-Op", "check");
            Answer answer = Barrier.run(connection, bad::get, null);
            if (!answer.equals(new Answer(400, "Txn-Id isn't well-formed Unicode"))) {
                System.out.println(name + ": an id that isn't well-formed: " + answer);
                failed++;
            }
            Map<String, String> key = Map.of("Idempotency-Key", "k");
            for (Answer odd : List.of(new Answer(200, "a\0b"), new Answer(200, "\udc00"), new Answer(700, ""))) {
                try {
                    answer = Barrier.run(connection, key::get, within -> odd);
                    System.out.println(name + ": " + odd + " was taken for " + answer);
                    failed++;
                } catch (IllegalStateException expected) {
                    // It can't be kept.
                }
            }
            if (!rows(connection, "select * from mesh_barrier", ROW).isEmpty() || !connection.getAutoCommit()) {
                System.out.println(name + ": something is left behind");
                failed++;
            }
        }
        return failed;
    }
}
