package operator

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
)

// collector counts objects in the cache at each scrape.
type collector struct {
	*operator
	keys, volumes, kept *prometheus.Desc
}

func (o *operator) addMetrics(ctrl.Manager) error {
	c := &collector{o,
		prometheus.NewDesc("sealvol_volumekeys", "Number of VolumeKeys, by reason of the condition Ready.", []string{"reason"}, nil),
		prometheus.NewDesc("sealvol_sealedvolumes", "Number of SealedVolumes, by phase, health and reason of the condition KeyReady.", []string{"phase", "health", "key"}, nil),
		prometheus.NewDesc("sealvol_kept_key_secrets", "Number of key Secrets whose VolumeKey and volumes are gone, by namespace of the VolumeKey.", []string{"namespace"}, nil)}
	metrics.Registry.Unregister(c) // a collector of an earlier manager in this process
	return metrics.Registry.Register(c)
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.keys
	ch <- c.volumes
	ch <- c.kept
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var keys v1alpha1.VolumeKeyList
	var volumes v1alpha1.SealedVolumeList
	if err := c.List(ctx, &keys, client.UnsafeDisableDeepCopy); err != nil {
		ch <- prometheus.NewInvalidMetric(c.keys, err)
		return
	}
	if err := c.List(ctx, &volumes, client.UnsafeDisableDeepCopy); err != nil {
		ch <- prometheus.NewInvalidMetric(c.volumes, err)
		return
	}
	var kept metav1.PartialObjectMetadataList
	kept.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	if err := c.List(ctx, &kept, client.InNamespace(c.Namespace), client.HasLabels{v1alpha1.KeptLabel}, client.UnsafeDisableDeepCopy); err != nil {
		ch <- prometheus.NewInvalidMetric(c.kept, err)
		return
	}
	ofTenant := map[string]int{}
	for i := range kept.Items {
		ofTenant[kept.Items[i].Labels[v1alpha1.KeptLabel]]++
	}
	for namespace, n := range ofTenant {
		ch <- prometheus.MustNewConstMetric(c.kept, prometheus.GaugeValue, float64(n), namespace)
	}
	byReason := map[string]int{}
	for i := range keys.Items {
		reason := "None"
		if r := meta.FindStatusCondition(keys.Items[i].Status.Conditions, v1alpha1.KeyReady); r != nil {
			reason = r.Reason
		}
		byReason[reason]++
	}
	for reason, n := range byReason {
		ch <- prometheus.MustNewConstMetric(c.keys, prometheus.GaugeValue, float64(n), reason)
	}
	byState := map[[3]string]int{}
	for i := range volumes.Items {
		s := &volumes.Items[i].Status
		state := [3]string{string(s.Phase), string(s.Health), "None"}
		if r := meta.FindStatusCondition(s.Conditions, v1alpha1.VolumeKeyReady); r != nil {
			state[2] = r.Reason
		}
		byState[state]++
	}
	for s, n := range byState {
		ch <- prometheus.MustNewConstMetric(c.volumes, prometheus.GaugeValue, float64(n), s[:]...)
	}
}
