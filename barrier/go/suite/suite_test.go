// SPDX-License-Identifier: Apache-2.0

// Package suite runs the shared suite: `go test`, on SQLite, and on what BARRIER_POSTGRES and BARRIER_MYSQL name as
// URLs. It is a module of its own, so that the barrier's has no dependencies.
package suite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"byrnie.dev/barrier"
	_ "github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"
)

type plan struct {
	Add       int
	Status    int
	Body      string
	Rejects   *answer
	Raises    bool
	Swallows  bool
	Conflicts int
}

type answer struct {
	Status int
	Body   string
	Raises bool
}

type step struct {
	Headers  map[string]string
	Business *plan
	Copies   int
	Message  *string
	Add      int
	Expect   struct {
		answer
		Runs int
	}
}

type suite struct {
	Cases []struct {
		Name    string
		On      []string
		Steps   []step
		Balance int
		Rows    [][5]*string
	}
}

// database is one that the cases run on.
type database struct {
	*sql.DB
	name     string
	dialect  barrier.Dialect
	lostRace string
}

var errBoom = errors.New("boom")

func TestSqlite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	run(t, database{open(t, "sqlite", "file:"+path+"?_pragma=busy_timeout(60000)"), "sqlite", barrier.SQLite, ""})
}

func TestPostgres(t *testing.T) {
	const lost = "do $$ begin raise exception using errcode = '40001'; end $$"
	run(t, database{open(t, "pgx", given(t, "BARRIER_POSTGRES")), "postgres", barrier.Postgres, lost})
}

func TestMysql(t *testing.T) {
	at, err := url.Parse(given(t, "BARRIER_MYSQL"))
	if err != nil {
		t.Fatal(err)
	}
	source := fmt.Sprintf("%s@tcp(%s)%s", at.User, at.Host, at.Path)
	run(t, database{open(t, "mysql", source), "mysql", barrier.MySQL, "signal sqlstate '40001' set mysql_errno = 1213"})
}

func given(t *testing.T, name string) string {
	value, ok := os.LookupEnv(name)
	if !ok {
		t.Skip(name + " names no database")
	}
	return value
}

func open(t *testing.T, driver, source string) *sql.DB {
	db, err := sql.Open(driver, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func run(t *testing.T, db database) {
	var all suite
	text, err := os.ReadFile("../../cases.json")
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil || len(all.Cases) == 0 {
		t.Fatal("cases.json: ", err)
	}
	for _, c := range all.Cases {
		if c.On != nil && !slices.Contains(c.On, db.name) {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			db.fresh(t)
			for at, step := range c.Steps {
				db.step(t, at+1, step)
			}
			var balance int
			if err := db.QueryRow("select balance from account").Scan(&balance); err != nil || balance != c.Balance {
				t.Errorf("the balance is %d (%v), not %d", balance, err, c.Balance)
			}
			if found, expected := shown(db.rows(t)), shown(c.Rows); !slices.Equal(found, expected) {
				t.Errorf("the rows are %q, not %q", found, expected)
			}
		})
	}
	t.Run("ids that aren't UTF-8 and answers that can't be kept", func(t *testing.T) {
		db.fresh(t)
		ctx, bad := context.Background(), http.Header{"Txn-Id": {"\xff"}, "Txn-Branch": {"b"}, "Txn-Op": {"check"}}
		said, err := barrier.Run(ctx, db.DB, db.dialect, bad, nil)
		if want := (barrier.Answer{Status: 400, Body: "Txn-Id isn't well-formed Unicode"}); err != nil || said != want {
			t.Errorf("%v %v", said, err)
		}
		twice := http.Header{"Idempotency-Key": {"a", "b"}}
		if said, _ := barrier.Run(ctx, db.DB, db.dialect, twice, nil); said.Status != 400 {
			t.Errorf("a key given twice: %v", said)
		}
		for _, odd := range []barrier.Answer{{Body: "a\x00b"}, {Body: "\xff"}, {Status: 700}} {
			key := http.Header{"Idempotency-Key": {"k"}}
			said, err := barrier.Run(ctx, db.DB, db.dialect, key, func(*sql.Tx) (barrier.Answer, error) { return odd, nil })
			if err == nil {
				t.Errorf("%v was taken for %v", odd, said)
			}
		}
		if rows := db.rows(t); len(rows) != 0 {
			t.Errorf("kept: %q", shown(rows))
		}
	})
}

func (db database) fresh(t *testing.T) {
	schema, err := os.ReadFile("../../schema/" + db.name + ".sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		"drop table if exists mesh_barrier",
		"drop table if exists account",
		strings.TrimSuffix(strings.TrimSpace(string(schema)), ";"),
		"create table account (id int primary key, balance int not null)",
		"insert into account values (1, 100)",
	} {
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(statement, err)
		}
	}
}

// step does all copies at one time: the business that runs waits until all are on their way.
func (db database) step(t *testing.T, at int, s step) {
	var ran atomic.Int32
	copies := max(s.Copies, 1)
	answers, errs := make([]barrier.Answer, copies), make([]error, copies)
	var begun, done sync.WaitGroup
	begun.Add(copies)
	for i := range copies {
		done.Go(func() {
			begun.Done()
			if s.Message != nil {
				answers[i], errs[i] = db.message(s)
			} else {
				answers[i], errs[i] = db.call(s, &ran, &begun)
			}
		})
	}
	done.Wait()
	for i := range copies {
		if s.Expect.Raises != (errs[i] != nil) {
			t.Errorf("step %d: %v", at, errs[i])
		}
		if expected := (barrier.Answer{Status: s.Expect.Status, Body: s.Expect.Body}); errs[i] == nil && answers[i] != expected {
			t.Errorf("step %d: answered %v, not %v", at, answers[i], expected)
		}
	}
	if int(ran.Load()) != s.Expect.Runs {
		t.Errorf("step %d: the business ran %d times, not %d", at, ran.Load(), s.Expect.Runs)
	}
}

func (db database) call(s step, ran *atomic.Int32, begun *sync.WaitGroup) (barrier.Answer, error) {
	headers := http.Header{}
	for name, value := range s.Headers {
		headers[name] = []string{value}
	}
	if s.Business == nil {
		return barrier.Run(context.Background(), db.DB, db.dialect, headers, nil)
	}
	plan := s.Business
	return barrier.Run(context.Background(), db.DB, db.dialect, headers, func(tx *sql.Tx) (barrier.Answer, error) {
		run := ran.Add(1)
		begun.Wait()
		if err := add(tx, plan.Add); err != nil {
			return barrier.Answer{}, err
		}
		if int(run) <= plan.Conflicts {
			if _, err := tx.Exec(db.lostRace); err != nil {
				return barrier.Answer{}, fmt.Errorf("paying: %w", err)
			}
		}
		if plan.Raises {
			return barrier.Answer{}, errBoom
		}
		if plan.Rejects != nil {
			return barrier.Answer{}, fmt.Errorf("paying: %w", barrier.Answer{Status: plan.Rejects.Status, Body: plan.Rejects.Body})
		}
		if plan.Swallows {
			_, _ = tx.Exec("select * from there_is_no_such_table")
		}
		return barrier.Answer{Status: plan.Status, Body: plan.Body}, nil
	})
}

// message is the creator of a message: its own change and the message, in one transaction.
func (db database) message(s step) (barrier.Answer, error) {
	tx, err := db.Begin()
	if err != nil {
		return barrier.Answer{}, err
	}
	defer tx.Rollback()
	if err := add(tx, s.Add); err != nil {
		return barrier.Answer{}, err
	}
	err = barrier.Message(context.Background(), tx, db.dialect, *s.Message)
	if no := (barrier.Answer{}); errors.As(err, &no) {
		return no, nil
	}
	if err != nil {
		return barrier.Answer{}, err
	}
	return barrier.Answer{Status: 200}, tx.Commit()
}

func add(tx *sql.Tx, amount int) error {
	_, err := tx.Exec(fmt.Sprintf("update account set balance = balance + (%d) where id = 1", amount))
	return err
}

func (db database) rows(t *testing.T) (found [][5]*string) {
	rows, err := db.Query("select txn, branch, op, by_op, response from mesh_barrier")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var row [5]*string
		if err := rows.Scan(&row[0], &row[1], &row[2], &row[3], &row[4]); err != nil {
			t.Fatal(err)
		}
		found = append(found, row)
	}
	return found
}

// shown makes rows comparable, in whatever order they come.
func shown(rows [][5]*string) (found []string) {
	for _, row := range rows {
		text, _ := json.Marshal(row)
		found = append(found, string(text))
	}
	slices.Sort(found)
	return found
}
