//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/sealvol/sealvol/test/e2e/cluster"
)

// postgres is a database in a volume of its own.
const postgres = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: postgres}
spec:
  serviceName: postgres
  replicas: 1
  selector: {matchLabels: {app: postgres}}
  template:
    metadata: {labels: {app: postgres}}
    spec:
      securityContext: {runAsUser: 999, runAsGroup: 999, fsGroup: 999, runAsNonRoot: true}
      terminationGracePeriodSeconds: 20
      containers:
        - name: postgres
          image: sealvol-test/postgresql:15
          env: [{name: PGDATA, value: /data/db}, {name: PGHOST, value: /tmp}, {name: PGUSER, value: postgres}, {name: PGDATABASE, value: postgres}]
          command: [sh, -ec, "[ -s $PGDATA/PG_VERSION ] || initdb --locale=C --encoding=UTF8 --data-checksums >/dev/null; exec postgres -k /tmp -c listen_addresses="]
          readinessProbe:
            exec: {command: [pg_isready]}
            periodSeconds: 1
            timeoutSeconds: 10
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec:
        storageClassName: sealvol
        accessModes: [ReadWriteOncePod]
        resources: {requests: {storage: 512Mi}}
`

// TestPostgreSQL: pgbench runs in a StatefulSet, the pod is killed, and the next one recovers.
// Every acknowledged transaction is there, and the balances match.
func TestPostgreSQL(t *testing.T) {
	t.Parallel()
	c := cluster.New(t)
	c.Apply(postgres)
	ready := func() {
		t.Helper()
		cluster.Wait(c, &appsv1.StatefulSet{}, "postgres", cluster.Timeout, func(s *appsv1.StatefulSet) error {
			if s.Status.ReadyReplicas != 1 {
				return fmt.Errorf("%d of 1 are ready", s.Status.ReadyReplicas)
			}
			return nil
		})
		c.PodReady("postgres-0")
	}
	sql := func(query string) string {
		t.Helper()
		return strings.TrimSpace(c.Exec("postgres-0", "psql", "-Atc", query))
	}
	ready()
	c.Exec("postgres-0", "pgbench", "--initialize", "--quiet", "--scale=3")
	sql("create table acknowledged (n int)")

	bench, acks := make(chan string), make(chan string)
	go func() {
		out, err := c.TryExec("postgres-0", "pgbench", "--no-vacuum", "--client=4", "--time=600", "--progress=2")
		bench <- fmt.Sprint(out, err)
	}()
	go func() {
		out, _ := c.TryExec("postgres-0", "sh", "-c", `n=0; while n=$((n + 1)); psql -qc "insert into acknowledged values ($n)"; do echo "$n "; done`)
		acks <- out
	}()
	c.Eventually(cluster.Timeout, func() error {
		if n := sql("select count(*) >= 500 and (select count(*) > 10 from acknowledged) from pgbench_history"); n != "t" {
			return fmt.Errorf("too few transactions")
		}
		return nil
	})
	c.Kubectl("delete", "pod", "postgres-0", "--grace-period=1")
	out, done := <-bench, strings.Fields(<-acks)
	if !strings.Contains(out, "tps") {
		t.Fatalf("pgbench: %s", out)
	}

	ready()
	if !strings.Contains(c.Logs("postgres-0"), "database system was not properly shut down") {
		t.Error("the database was shut down in order: nothing was tried")
	}
	if last := done[len(done)-1]; sql("select max(n) >= "+last+" and count(*) >= "+last+" from acknowledged") != "t" {
		t.Errorf("transaction %s was acknowledged; there is %s", last, sql("select max(n), count(*) from acknowledged"))
	}
	c.Exec("postgres-0", "pgbench", "--no-vacuum", "--client=4", "--transactions=50")
	sums := sql(`select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)
		and (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)
		and (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)`)
	if sums != "t" {
		t.Error("the books do not balance")
	}
	c.Exec("postgres-0", "sh", "-ec", "psql -qc 'create extension if not exists amcheck'; pg_amcheck --heapallindexed postgres") // all tables and indexes, with their checksums
}
