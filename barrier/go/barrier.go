// SPDX-License-Identifier: Apache-2.0

// Package barrier lets each call of a transaction take effect once, in the right order, in the participant's own
// database. It works over database/sql with any driver and needs the table of ../schema. The guarantee and its limits:
// ../README.md.
package barrier

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand"
	"net/http"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	attemptsMax = 10 // of one transaction that loses races in the database
	// The columns of the table.
	txnBytesMax, branchBytesMax, opBytesMax = 160, 64, 16
)

var (
	ops    = []string{"action", "try", "compensate", "cancel", "confirm", "complete", "check"}
	undoes = map[string]string{"compensate": "action", "cancel": "try"}
	quoted = regexp.MustCompile(`^"((?:[ !#-\[\]-~]|\\["\\])*)"$`)
	bare   = regexp.MustCompile(`^[!#-+\-./0-9:<-\[\]-~]*$`)
	escape = regexp.MustCompile(`\\(.)`)
)

// Dialect is what a database understands.
type Dialect struct{ insert, tail, lock string }

var (
	Postgres = Dialect{"insert", " on conflict do nothing", ""}
	// MySQL is also MariaDB. Its older snapshot might not show a row that an insert has met: so with a lock.
	MySQL  = Dialect{"insert ignore", "", " lock in share mode"}
	SQLite = Dialect{"insert or ignore", "", ""}
)

// Answer is what the caller gets: an HTTP status and a UTF-8 text without U+0000.
type Answer struct {
	Status int
	Body   string
}

// Error makes an Answer a no that a business may return as its error: its transaction is rolled back, and the answer
// passes on.
func (a Answer) Error() string { return fmt.Sprintf("%d %s", a.Status, a.Body) }

// Business does the work within tx, which it must neither commit nor roll back. It may be called up to 10 times, each
// time after a rollback.
type Business func(tx *sql.Tx) (Answer, error)

// Run lets business run if this call hasn't taken effect before, and returns the answer for the caller. An Answer of
// status 400 and above, returned or as the error, is a no; any other error rolls back and is returned. An Answer's
// status of 0 means 200. A call for "check" needs no business. Bad headers are answered 400.
func Run(ctx context.Context, db *sql.DB, d Dialect, headers http.Header, business Business) (Answer, error) {
	c, err := read(headers)
	if no, ok := err.(Answer); ok {
		return no, nil
	}
	if business == nil && c.op != "check" {
		return Answer{}, fmt.Errorf("barrier: no business for Txn-Op %s", c.op)
	}
	for attempt := 1; ; attempt++ {
		answer, err := once(ctx, db, d, c, business)
		if no := (Answer{}); errors.As(err, &no) {
			return no, nil
		}
		if err == nil || !isRace(err) || attempt == attemptsMax {
			return answer, err
		}
		select {
		case <-ctx.Done():
			return Answer{}, ctx.Err()
		case <-time.After(time.Duration(rand.Int63n(int64(attempt) * int64(10*time.Millisecond)))):
		}
	}
}

// Message says, in the creator's own transaction, that message id is made. The error is an Answer of 409 if its check
// came first or it exists already: then roll back.
func Message(ctx context.Context, tx *sql.Tx, d Dialect, id string) error {
	if err := fits("the message's id", id, txnBytesMax); err != nil {
		return err
	}
	t := table{ctx, tx, d}
	isNew, by, _, err := t.insertOrRead(id, "00", "msg", "msg")
	switch {
	case err != nil || isNew:
		return err
	case by == "msg":
		return Answer{409, fmt.Sprintf("message %s exists already", id)}
	}
	return Answer{409, fmt.Sprintf("too late: the check of message %s came first", id)}
}

type call struct{ txn, branch, op string }

// once is one transaction. SQLite's begins with an insert, which takes the lock that "begin immediate" would.
func once(ctx context.Context, db *sql.DB, d Dialect, c call, business Business) (Answer, error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return Answer{}, err
	}
	defer tx.Rollback() // nothing, once it is committed
	answer, err := pass(table{ctx, tx, d}, c, business)
	if err != nil {
		return Answer{}, err
	}
	return answer, tx.Commit()
}

func pass(t table, c call, business Business) (Answer, error) {
	if c.op == "check" {
		isNew, by, _, err := t.insertOrRead(c.txn, "00", "msg", "rollback")
		if !isNew && by == "msg" {
			return Answer{Status: 200}, err
		}
		return Answer{409, "the message was never sent"}, err
	}
	if undone, ok := undoes[c.op]; ok {
		// Whoever undoes what never came holds its place, so that it comes too late. A repetition finds its own row.
		isNew, by, _, err := t.insertOrRead(c.txn, c.branch, undone, c.op)
		if err != nil || isNew || by == c.op {
			return Answer{Status: 200}, err
		}
	}
	own := c.op
	if own == "complete" {
		own = "confirm"
	}
	isNew, by, response, err := t.insertOrRead(c.txn, c.branch, own, own)
	switch {
	case err != nil:
		return Answer{}, err
	case !isNew && own != "action" && own != "try":
		return Answer{Status: 200}, nil
	case !isNew && by != own:
		return Answer{}, Answer{409, fmt.Sprintf("too late: %s came first", by)}
	case !isNew:
		status, body, _ := strings.Cut(response, " ")
		number, err := strconv.Atoi(status)
		return Answer{number, body}, err
	}
	answer, err := business(t.tx)
	if err != nil {
		return Answer{}, err
	}
	if answer.Status == 0 {
		answer.Status = 200
	}
	if answer.Status < 200 || answer.Status > 599 || strings.ContainsRune(answer.Body, 0) || !utf8.ValidString(answer.Body) {
		return Answer{}, fmt.Errorf("barrier: a business answers a status of 200 to 599 and UTF-8 without U+0000, not %d %q",
			answer.Status, answer.Body)
	}
	if answer.Status >= 400 {
		return Answer{}, answer
	}
	// Kept for every operation: where the business has hidden a database error, this statement fails.
	return answer, t.keep(c.txn, c.branch, own, answer.Error())
}

// table is mesh_barrier within a transaction.
type table struct {
	ctx context.Context
	tx  *sql.Tx
	Dialect
}

// insertOrRead tells whether the row is new, and else who made it and the answer kept there. It waits for a transaction
// that holds the same row.
func (t table) insertOrRead(txn, branch, op, by string) (isNew bool, found, response string, err error) {
	insert := t.insert + " into mesh_barrier (txn, branch, op, by_op) values (?, ?, ?, ?)" + t.tail
	done, err := t.tx.ExecContext(t.ctx, t.words(insert), txn, branch, op, by)
	if err != nil {
		return false, "", "", err
	}
	if count, err := done.RowsAffected(); err != nil || count == 1 {
		return true, by, "", err
	}
	var kept sql.NullString
	read := "select by_op, response from mesh_barrier where txn = ? and branch = ? and op = ?" + t.lock
	err = t.tx.QueryRowContext(t.ctx, t.words(read), txn, branch, op).Scan(&found, &kept)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("barrier: somebody deletes rows of mesh_barrier that are in use: %s %s %s", txn, branch, op)
	}
	return false, found, kept.String, err
}

func (t table) keep(txn, branch, op, response string) error {
	update := "update mesh_barrier set response = ? where txn = ? and branch = ? and op = ?"
	_, err := t.tx.ExecContext(t.ctx, t.words(update), response, txn, branch, op)
	return err
}

// words puts $1, $2.. for PostgreSQL.
func (t table) words(statement string) string {
	if t.Dialect != Postgres {
		return statement
	}
	for at := 1; strings.Contains(statement, "?"); at++ {
		statement = strings.Replace(statement, "?", "$"+strconv.Itoa(at), 1)
	}
	return statement
}

// read finds the transaction, the branch and the operation of a call; its error is an Answer of 400.
func read(headers http.Header) (call, error) {
	found := map[string]string{}
	for name, values := range headers {
		switch name = strings.ToLower(name); name {
		case "txn-id", "txn-branch", "txn-op", "idempotency-key":
			if _, twice := found[name]; twice || len(values) > 1 {
				return call{}, Answer{400, "there is more than one " + name}
			}
			if len(values) == 1 {
				found[name] = values[0]
			}
		}
	}
	if _, ok := found["txn-id"]; !ok {
		key, ok := found["idempotency-key"]
		if !ok {
			return call{}, Answer{400, "there is neither Txn-Id nor Idempotency-Key"}
		}
		key, err := unquote(key)
		if err == nil {
			err = fits("Idempotency-Key", key, txnBytesMax)
		}
		return call{key, "-", "action"}, err
	}
	for _, column := range []struct {
		name string
		most int
	}{{"Txn-Id", txnBytesMax}, {"Txn-Branch", branchBytesMax}, {"Txn-Op", opBytesMax}} {
		text, ok := found[strings.ToLower(column.name)]
		if !ok {
			return call{}, Answer{400, column.name + " is missing"}
		}
		if err := fits(column.name, text, column.most); err != nil {
			return call{}, err
		}
	}
	c := call{found["txn-id"], found["txn-branch"], found["txn-op"]}
	for _, op := range ops {
		if op == c.op {
			return c, nil
		}
	}
	return call{}, Answer{400, "Txn-Op is none of " + strings.Join(ops, ", ")}
}

func fits(name, text string, most int) error {
	switch {
	case text == "":
		return Answer{400, name + " is empty"}
	case len(text) > most:
		return Answer{400, fmt.Sprintf("%s is longer than %d bytes", name, most)}
	case strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return Answer{400, name + " has a control character in it"}
	case !utf8.ValidString(text):
		return Answer{400, name + " isn't well-formed Unicode"}
	}
	return nil
}

// unquote reads a key as RFC 8941 quotes it, or the same characters bare.
func unquote(value string) (string, error) {
	value = strings.Trim(value, " \t\r\n\f")
	if inner := quoted.FindStringSubmatch(value); inner != nil {
		return escape.ReplaceAllString(inner[1], "$1"), nil
	}
	if !bare.MatchString(value) {
		return "", Answer{400, "Idempotency-Key isn't a string in quotes of printable ASCII"}
	}
	return value, nil
}

// isRace tells whether the database ended the transaction for the sake of another: run again, it may do. PostgreSQL's
// drivers have the method, that of MySQL the field.
func isRace(err error) bool {
	if state := (interface{ SQLState() string })(nil); errors.As(err, &state) {
		return state.SQLState() == "40001" || state.SQLState() == "40P01"
	}
	for ; err != nil; err = errors.Unwrap(err) {
		value := reflect.Indirect(reflect.ValueOf(err))
		if value.Kind() != reflect.Struct {
			continue
		}
		if number := value.FieldByName("Number"); number.IsValid() && number.CanUint() {
			code := number.Uint()
			return code == 1205 || code == 1213 || code == 1020
		}
	}
	return false
}
