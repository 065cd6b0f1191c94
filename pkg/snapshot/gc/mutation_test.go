package gc

import "testing"

// mutations are the rules of the protocol: each left out loses data, which the
// model has to find.
var mutations = []struct {
	name   string
	rules  skipped
	broken broken
}{
	{"manifests are listed before leases", skipped{manifestsFirst: true}, broken{}},
	{"an expired lease ends without a void card", skipped{expiredStaysAlive: true}, broken{}},
	{"what has no card is garbage without a void card", skipped{garbageUnvoided: true}, broken{}},
	{"leases do not protect bases", skipped{basesIgnored: true}, broken{}},
	{"leases do not protect attempts", skipped{attemptsIgnored: true}, broken{}},
	{"the lease does not name the base", skipped{}, broken{baseUnleased: true}},
	{"the base's card is not looked at", skipped{}, broken{baseUnchecked: true}},
	{"packs are taken over that are condemned", skipped{}, broken{recordsUnread: true}},
	{"what is condemned is deleted in the same pass", skipped{onePass: true}, broken{}},
	{"records are removed when a lease needs what they name", skipped{recordsLiftedEarly: true}, broken{}},
	{"undelete leaves no verdict", skipped{}, broken{undeleteUnjudged: true}},
	{"pruners do not read verdicts", skipped{verdictless: true}, broken{}},
	{"void cards are put after leases were listed", skipped{voidLate: true}, broken{}},
}

// TestMutations: the model finds what each rule is for.
func TestMutations(t *testing.T) {
	if testing.Short() { // some need the larger scenarios
		return
	}
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			for _, s := range scenarios {
				e := &explorer{scenario: s, rules: m.rules, broken: m.broken, seen: map[uint64]struct{}{}}
				if err := e.visit(e.replay(nil), nil); err != nil {
					t.Logf("%s, after %d states: %v\n%s", s.name, len(e.seen), err, e.story())
					return
				}
			}
			t.Error("the model does not notice")
		})
	}
}
