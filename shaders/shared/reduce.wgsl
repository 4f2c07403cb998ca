// Sum over a workgroup of THREADS invocations (a power of two). Every thread must call it; every thread gets the sum.
// A tree in workgroup memory: any subgroup size, no subgroup feature, the same order (and bits) on every run.
var<workgroup> sh_reduce: array<f32, #{THREADS}>;

fn workgroup_sum(value: f32, lane: u32) -> f32 {
    sh_reduce[lane] = value;
    workgroupBarrier();
    for (var step = #{THREADS / 2}u; step > 0u; step >>= 1u) {
        if lane < step {
            sh_reduce[lane] += sh_reduce[lane + step];
        }
        workgroupBarrier();
    }
    let sum = sh_reduce[0];
    workgroupBarrier();
    return sum;
}
