// Package matrixtest contains only tests: requests that tenants, nodes and pods of Sealvol must not
// be able to make to the API server, and the rule that refuses each.
//
// The API server is real, with the authorizers Node and RBAC, the admission plugin NodeRestriction,
// and the roles and policies of the chart, for both backends. Each attempt names the rule that
// refuses it: a policy of the chart, RBAC, the node authorizer, NodeRestriction, or the validation
// of a CRD. Most attempts have a control: a similar request that is allowed. It shows that the
// attempt is refused by the rule, and not because of an error in the request. A copy of each
// policy, which only warns, shows that the policy has evaluated the control (world.shadow).
//
// docs/threat-model.md lists the attempts. TestDocument compares the list, or writes it with
// -update.
package matrixtest
